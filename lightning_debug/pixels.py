"""Numbers as pixels: scaled, laid out in rows, and large enough to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MOST_WIDTH, MOST_HEIGHT = 512, 1024
SIDE = 48  # of a tile, in pixels, as far as there is room
GAP, BETWEEN, GREY = 4, 255, 128


def scaled(values: NDArray[Any], *, from_zero: bool = False) -> Pixels:
    """Return values from the smallest, black, to the largest, white; all alike are grey.

    Args:
        values: Of any shape; those that are not finite become black.
        from_zero: Whether 0 is black, for values of which none is below.
    """
    with np.errstate(all="ignore"):
        numbers = np.asarray(values, dtype=np.float64)
        finite = np.isfinite(numbers)
        if not finite.any():
            return np.zeros(numbers.shape, dtype=np.uint8)
        low, high = numbers[finite].min(), numbers[finite].max()
        low = min(low, 0.0) if from_zero else low
        if low == high:
            return np.full(numbers.shape, 0 if from_zero else GREY, dtype=np.uint8)
        # Halves: the range itself may be too large for a number.
        share = (numbers / 2 - low / 2) / (high / 2 - low / 2)
        return (255 * np.where(finite, share, 0.0).clip(0.0, 1.0)).round().astype(np.uint8)


def tiled(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Return images of one size in rows, with thin lines between them.

    Small ones are enlarged by a whole factor, and of large ones every second, third ... pixel is
    shown, so that the whole is at most 512 pixels wide and 1024 high.

    Args:
        rows: Images of shape (height, width), or (height, width, 3) for colours.
    """
    columns = max(map(len, rows))
    room = (MOST_HEIGHT + GAP) // len(rows) - GAP, (MOST_WIDTH + GAP) // columns - GAP
    colours = any(image.ndim == 3 for row in rows for image in row)
    tiles = [[fitted(image, room) for image in row] for row in rows]
    high, wide = tiles[0][0].shape[:2]
    shape = len(rows) * (high + GAP) - GAP, columns * (wide + GAP) - GAP
    canvas = np.full((*shape, 3) if colours else shape, BETWEEN, dtype=np.uint8)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            top, left = y * (high + GAP), x * (wide + GAP)
            shown = tile[:, :, None] if colours and tile.ndim == 2 else tile
            canvas[top : top + high, left : left + wide] = shown
    return canvas


def fitted(image: Pixels, room: tuple[int, int], side: int = SIDE) -> Pixels:
    """Return an image with every second, third ... pixel left out, or each as a square.

    Args:
        image: Of shape (height, width) or (height, width, 3).
        room: Most pixels in height and in width.
        side: How large it is to become, if it is small and there is room.
    """
    high, wide = image.shape[:2]
    step = max(1, -(-high // room[0]), -(-wide // room[1]))
    few = image[::step, ::step]
    factor = max(1, min(room[0] // high, room[1] // wide, -(-side // max(high, wide))))
    return few.repeat(factor, axis=0).repeat(factor, axis=1)


def in_rows(images: Sequence[Pixels], columns: int) -> list[Sequence[Pixels]]:
    """Return images in rows of so many."""
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers below ``count``, evenly spread, the ends included."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def some(count: int, of: int, what: str) -> str:
    """Return how many are shown, in words: ``"8 of 64 filters"``."""
    return f"all {of} {what}" if count == of else f"{count} of {of} {what}"
