"""What the first convolution looks for, as images of its filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Module

from lightning_debug.observation import Observation
from lightning_debug.picture import Image, Picture
from lightning_debug.pixels import evenly, in_rows, scaled, some, tiled
from lightning_debug.taps.look import LookTap
from lightning_debug.taps.statistics import dense

MOST_FILTERS, COLUMNS = 64, 8
LARGEST = 64


class FilterTap(LookTap):
    """Draws the filters of the first convolution before the first step and after the last one.

    Args:
        model: The module that is trained.
    """

    name = "the tap on filters"
    draws = True

    def __init__(self, model: Module) -> None:
        self._model = model
        self._waiting: list[Image] = []
        self._drawn = -1

    def start(self, step: int, epoch: int) -> Iterable[Observation]:
        """Draw them as they are at the start."""
        self._draw(step)
        return ()

    def rest(self, step: int, epoch: int) -> Iterable[Observation]:
        """Draw them as they are at the end."""
        if step != self._drawn:
            self._draw(step)
        return ()

    def pictures(self, step: int) -> Iterator[Picture]:
        """Return what was drawn."""
        waiting, self._waiting = self._waiting, []
        yield from waiting

    def _draw(self, step: int) -> None:
        found = first_convolution(self._model)
        image = None if found is None else filters(*found, step=step)
        if image is not None:
            self._waiting.append(image)
            self._drawn = step


def first_convolution(model: Module) -> tuple[str, nn.Conv2d] | None:
    """Return the first convolution of a model that looks at more than one pixel, and its path."""
    found = ((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return next(((path, m) for path, m in found if 1 < max(m.kernel_size) <= LARGEST), None)


def filters(path: str, layer: nn.Conv2d, *, step: int) -> Image | None:
    """Return the filters of a convolution as one image; None where its weights are not there."""
    weight: Tensor = layer.weight
    if isinstance(weight, nn.parameter.UninitializedParameter) or hasattr(weight, "to_local"):
        return None
    values = dense(weight)
    if values is None:
        return None
    chosen = evenly(len(values), MOST_FILTERS)
    with torch.no_grad():
        few = values[torch.tensor(chosen, device=values.device)].float()
        colours = few.shape[1] == 3
        few = few.movedim(1, -1) if colours else few.mean(dim=1)
    images = [scaled(image) for image in np.asarray(few.cpu())]
    size = f"{layer.kernel_size[0]}x{layer.kernel_size[1]}"
    mean = "" if colours or layer.in_channels == 1 else "; the mean over what it takes"
    how = "red, green and blue" if colours else "light is large"
    return Image(
        kind="filters",
        place=path,
        step=step,
        caption=f"{some(len(chosen), len(values), 'filters')} of {path} ({type(layer).__name__},"
        f" {size}), after {step} updates; each is scaled on its own, {how}{mean}",
        pixels=tiled(in_rows(images, COLUMNS)),
    )
