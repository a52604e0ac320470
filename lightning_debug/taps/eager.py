"""Holds compiled code back while hooks and functions are to be heard."""

from __future__ import annotations

import sys
import threading
from typing import Any, ClassVar

import torch


class Eagerly:
    """Compiled code runs eagerly for as long as anybody asks for it; nothing is compiled again.

    Who asks may come and go in any order: a look can be open when validation starts, and be over
    before validation is.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _asking: ClassVar[int] = 0
    _stance: ClassVar[Any] = None

    def __enter__(self) -> None:
        """Ask for it."""
        with Eagerly._lock:
            if Eagerly._asking == 0 and "torch._dynamo" in sys.modules:
                Eagerly._stance = torch.compiler.set_stance("force_eager")
            Eagerly._asking += 1

    def __exit__(self, *error: object) -> None:
        """Ask no more."""
        with Eagerly._lock:
            Eagerly._asking -= 1
            if Eagerly._asking == 0 and Eagerly._stance is not None:
                stance, Eagerly._stance = Eagerly._stance, None
                stance.__exit__(None, None, None)
