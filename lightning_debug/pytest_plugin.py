"""For pytest: the fixtures ``assert_trains`` and ``preflight``, and a section in its reports.

Every pytest where this package is installed loads it, so it imports nothing until a test asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lightning_debug.trial_run import Preflight


@pytest.fixture(scope="session")
def assert_trains() -> Callable[..., Preflight]:
    """Fail where a model and its data have a training bug: ``assert_trains(model, data)``."""
    from lightning_debug.testing import assert_trains

    return assert_trains


@pytest.fixture(scope="session")
def preflight() -> Callable[..., Preflight]:
    """Make the experiments on a copy of a model: ``preflight(model, data).findings``."""
    from lightning_debug.trial_run import preflight

    return preflight


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the experiments below a failure of :func:`~lightning_debug.testing.assert_trains`."""
    report = yield
    found = getattr(call.excinfo.value, "preflight", None) if call.excinfo else None
    if type(found).__name__ == "Preflight":
        report.sections.append(("lightning_debug", str(found).partition("\n")[2]))
    return report
