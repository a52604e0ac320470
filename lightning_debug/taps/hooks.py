"""Hooks that hear one training, where a process runs several: a thread for each."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

Hook = Callable[..., None]


def here(hook: Hook) -> Hook:
    """Return a hook that is deaf in all threads but this one."""
    thread = threading.get_ident()

    @functools.wraps(hook)
    def hear(*args: Any, **kwargs: Any) -> None:
        if threading.get_ident() == thread:
            hook(*args, **kwargs)

    return hear


def on_steps(
    optimizers: Collection[Optimizer], before: Hook, after: Hook, *, strangers: bool
) -> list[RemovableHandle]:
    """Hear of the steps of optimizers, in this thread.

    Args:
        optimizers: Those that are known.
        before: Called with the optimizer, and what its step was called with.
        after: The same.
        strangers: Whether to hear of all others as well. That takes hooks on all optimizers of
            the process, and torch raises in another thread that makes a step meanwhile.

    Returns:
        What takes the hooks off.
    """
    # A wrapper need not have what torch gives an optimizer when it is made.
    if strangers or not all(hasattr(o, "_optimizer_step_post_hooks") for o in optimizers):
        return [
            register_optimizer_step_pre_hook(here(before)),
            register_optimizer_step_post_hook(here(after)),
        ]
    return [
        handle
        for optimizer in optimizers
        for handle in (
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        )
    ]
