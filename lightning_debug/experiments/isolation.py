"""Keeps an experiment from leaving a trace in the process."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from lightning_debug.experiments.outward import contained
from lightning_debug.taps.eager import Eagerly


@contextlib.contextmanager
def isolated(dtype: torch.dtype | None) -> Iterator[None]:
    """Run something that draws, prints and warns as if it had not been run.

    Restores the states of all random generators of the process, the default dtype, and the
    modes of autograd and autocast; swallows what is printed, warned and logged; files that are
    written lie above those on the disk, and are gone afterwards.

    Args:
        dtype: Default dtype inside, without autocast; None: leave both as they are.
    """
    default = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contained())
        stack.enter_context(generators())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if dtype is not None:
            for kind in {"cpu", _accelerator()}:
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(Eagerly())
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype or default)
        yield


def seed(number: int) -> None:
    """Seed all random generators of the process; only inside :func:`isolated`."""
    random.seed(number)
    np.random.seed(number)
    # Not torch.manual_seed: that would reach devices which are not in use yet.
    torch.default_generator.manual_seed(number)
    for generator in _device_generators():
        generator.manual_seed(number)


@contextlib.contextmanager
def generators() -> Iterator[None]:
    """Bring all random generators of the process back to the states in which they are."""
    python, numeric, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = [(generator, generator.get_state()) for generator in _device_generators()]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numeric)
        torch.set_rng_state(cpu)
        for generator, state in devices:
            generator.set_state(state)


def _device_generators() -> list[torch.Generator]:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return list(torch.cuda.default_generators)
    return []


def _accelerator() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
