"""Weight layers that follow each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPair:
    """Two trained weight layers; the output of the first went to the second only, unbent.

    Attributes:
        first, second: Their places, or the names of weights that a function was given.
        through: The functions on the way, such as ``"dropout"``.
        inner: Width of the input of the first.
        middle: Width of what the second takes.
        outer: Width of the output of the second.
        seam: Whether a part with several weight layers ends and another one begins in between.
        line: The line of the user's code in which the second runs: ``"model.py:41"``.
    """

    first: str
    second: str
    through: tuple[str, ...] = ()
    inner: int = 64
    middle: int = 64
    outer: int = 10
    seam: bool = False
    line: str = ""
