"""The checks: one file a finding, one folder a section of the checklist.

The folder is the registry; every check can be imported from here by its class name.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from lightning_debug.registry import all_checks

    for cls in all_checks().values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"there is no check {name!r}; `lightning-debug list` shows all of them")
