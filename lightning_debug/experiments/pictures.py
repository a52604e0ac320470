"""Pictures of what a trained model looks at, made on a copy of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_debug.experiments.attribution import INSTALL, Explainers, Scores
from lightning_debug.experiments.batches import samples, take
from lightning_debug.experiments.calls import Call
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.trial import Trial, heard
from lightning_debug.observation import Observation
from lightning_debug.picture import Bars, Image, Picture
from lightning_debug.pixels import (
    MOST_HEIGHT,
    MOST_WIDTH,
    Pixels,
    evenly,
    fitted,
    scaled,
    some,
    tiled,
)
from lightning_debug.taps.data import named_tensors

LAYERS = 3
SAMPLES, FEWEST, SHOWN, MAPS = 64, 4, 6, 12
ROWS = 3
UNITS = 128
UNIT_SIDE = 8
MOST_BARS = 40
# What is left to do takes about so many times as long as what has been done.
AHEAD = 4.0
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
# Where a positive number means that a unit is on.
FIRING = frozenset(
    "ReLU ReLU6 LeakyReLU PReLU RReLU GELU SiLU Mish ELU SELU CELU Hardswish Tanh".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures(Observation):
    """What was drawn, and what could not be; for no check.

    Attributes:
        drawn: In words, such as ``"saliency"``.
        missing: Why others were not drawn.
    """

    drawn: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def summary(self) -> str:
        """Return what there is to see."""
        return "; ".join((", ".join(dict.fromkeys(self.drawn)), *self.missing))


def pictures(
    replica: Replica,
    batch: Any,
    hand: Callable[[Picture], None],
    explainers: Explainers | None,
    end: float,
    *,
    step: int,
    epoch: int,
) -> Pictures:
    """Draw feature maps, the units that fire, and what the predictions depend on.

    Args:
        replica: Of the model, in the formats of the run.
        batch: Data of the run.
        hand: Takes each picture.
        explainers: What draws saliency and Grad-CAM; None for neither.
        end: When to stop, in seconds of the monotonic clock.
        step: Optimizer updates made.
        epoch: Epoch, counted from 0.

    Raises:
        NotApplicableError: If there is nothing to draw.
    """
    begun = time.monotonic()
    replica.evaluating = True
    count = samples(batch) or SAMPLES
    batch = take(batch, replica.load.samples(batch, count, SAMPLES, FEWEST))
    trial = heard(replica, batch, nested=True, normed=True)
    drawn: list[str] = []
    missing: list[str] = []
    size = samples(batch)
    for picture in (*feature_maps(trial, size, step), *firing_units(trial, size, step)):
        hand(picture)
        drawn.append(picture.kind)
    try:
        ahead = AHEAD * (time.monotonic() - begun)
        if time.monotonic() + ahead > end:
            raise NotApplicableError("there is no time for gradients of inputs")
        for shown in _attributed(replica, batch, trial, explainers, step):
            hand(shown)
            drawn.append(shown.kind)
    except NotApplicableError as reason:
        missing.append(str(reason))
    if not drawn:
        raise NotApplicableError("; ".join(missing) or "there is nothing to draw")
    return Pictures(step=step, epoch=epoch, drawn=tuple(drawn), missing=tuple(missing))


def feature_maps(trial: Trial, size: int, step: int) -> Iterator[Image]:
    """Yield what a few convolutions make of a few samples."""
    found = {
        call.path: call
        for call in reversed(trial.calls)
        if isinstance(call.module, CONVOLUTIONS) and _is_images(call.out) and len(call.out) == size
    }
    calls = list(reversed(found.values()))
    for call in (calls[i] for i in evenly(len(calls), LAYERS)):
        maps = call.out[:ROWS]
        channels = evenly(maps.shape[1], MAPS)
        values = _numbers(maps[:, channels])
        yield Image(
            kind="feature maps",
            place=call.path,
            step=step,
            caption=f"{some(len(channels), maps.shape[1], 'maps')} of {_named(call)}, after"
            f" {step} updates: a row for each of {len(maps)} samples, a column for each map; each"
            " is scaled on its own, light is large",
            pixels=tiled([[scaled(image) for image in row] for row in values]),
        )


def firing_units(trial: Trial, size: int, step: int) -> Iterator[Image]:
    """Yield which units of a few hidden layers are positive for which samples."""
    calls = _hidden(trial, size)
    for call in (calls[i] for i in evenly(len(calls), LAYERS)):
        positive = (call.out > 0).float()
        if positive.ndim == 4:
            shares = positive.flatten(2).mean(dim=2)
        else:
            shares = positive.reshape(size, -1, positive.shape[-1]).mean(dim=1)
        busy = shares.mean(dim=0)
        never, always = int((busy == 0).sum()), int((busy == 1).sum())
        order = busy.argsort(descending=True, stable=True)
        chosen = order[evenly(len(order), UNITS)]
        image: Pixels = (255 * _numbers(shares[:, chosen])).round().astype(np.uint8)
        share = "" if positive.ndim == 2 else " the lighter, the larger the part that is positive;"
        yield Image(
            kind="units",
            place=call.path,
            step=step,
            caption=f"which units of {_named(call)} fire, after {step} updates: a row for each of"
            f" {size} samples, a column for each unit ({some(len(chosen), len(busy), 'units')}),"
            f" the busiest first; white is positive, black is not;{share} {never} never fire for"
            f" these samples, and {always} always do",
            pixels=fitted(image, (MOST_HEIGHT, MOST_WIDTH), max(image.shape) * UNIT_SIDE),
        )


def _hidden(trial: Trial, size: int) -> list[Call]:
    """Return the calls whose outputs say what fires: non-linearities, or else hidden layers."""
    parents = {id(call.parent) for call in trial.calls}
    leaves: dict[str, Call] = {}
    for call in trial.calls:
        fits = isinstance(call.out, Tensor) and call.out.ndim in (2, 3, 4)
        if id(call) not in parents and fits and len(call.out) == size:
            leaves.setdefault(call.path, call)
    calls = [call for call in leaves.values() if call.out.is_floating_point()]
    firing = [call for call in calls if type(call.module).__name__ in FIRING]
    if firing:
        return firing
    layers = [c for c in calls if isinstance(c.module, (*WEIGHTED, *NORMS))]
    # A norm after a layer decides what is positive; the last layer is the answer.
    followed = itertools.pairwise(layers)
    return [one for one, after in followed if not isinstance(after.module, NORMS)]


def _attributed(
    replica: Replica, batch: Any, trial: Trial, explainers: Explainers | None, step: int
) -> Iterator[Image | Bars]:
    """Yield what the prediction depends on."""
    scores = Scores(replica, batch, trial)
    place = _place(batch, scores)
    if scores.kind == "images":
        if not scores.single:
            raise NotApplicableError("it predicts several numbers for each image")
        if explainers is None:
            raise NotApplicableError(INSTALL)
        yield _saliency(scores, explainers, place, step)
        yield from _grad_cam(scores, explainers, trial, step)
    elif scores.kind == "table":
        spread = scores.given.float().std(dim=0, correction=0)
        strength = scores.gradient.abs().mean(dim=0) * spread
        what = "when a column moves by its standard deviation"
        yield _bars(strength, "column", place, f"how much the prediction changes {what}", step)
    else:
        strength = scores.gradient.norm(dim=2).mean(dim=0)
        tokens = scores.kind == "tokens"
        where = "what the embedding makes of a token" if tokens else "the input"
        what = f"size of the gradient of the prediction at {where}, by position"
        yield _bars(strength, "position", place, what, step)


def _saliency(scores: Scores, explainers: Explainers, place: str, step: int) -> Image:
    given = scores.given.clone().requires_grad_()
    strength = _by_captum(explainers.saliency(scores).attribute, given).abs().amax(dim=1)
    shown = _numbers(strength[:SHOWN])
    return Image(
        kind="saliency",
        place=place,
        step=step,
        caption=f"saliency for {len(shown)} samples, after {step} updates: above the images, below"
        " how much each pixel changes the score of the true answer; each is scaled on its own,"
        " light is much",
        pixels=tiled([_images(scores.given), [scaled(image, from_zero=True) for image in shown]]),
    )


def _grad_cam(scores: Scores, explainers: Explainers, trial: Trial, step: int) -> Iterator[Image]:
    found = (c for c in reversed(trial.calls) if isinstance(c.module, nn.Conv2d))
    call = next((c for c in found if _is_images(c.out) and len(c.out) == scores.size), None)
    if call is None:
        return
    given = scores.given.clone().requires_grad_()
    explainer = explainers.grad_cam(scores, call.module)
    cam = _by_captum(explainer.attribute, given, relu_attributions=True)
    size = scores.given.shape[2:]
    heat = F.interpolate(cam.detach().float(), size, mode="bilinear", align_corners=False)
    shown = _numbers(heat[:SHOWN, 0])
    yield Image(
        kind="Grad-CAM",
        place=call.path,
        step=step,
        caption=f"Grad-CAM of {_named(call)} for {len(shown)} samples, after {step} updates: above"
        " the images, below where the layer speaks for the true answer; each is scaled on its own,"
        " light is much",
        pixels=tiled([_images(scores.given), [scaled(image, from_zero=True) for image in shown]]),
    )


def _by_captum(attribute: Callable[..., Tensor], given: Tensor, **options: bool) -> Tensor:
    try:
        return attribute(given, **options)
    except (RuntimeError, AssertionError) as error:
        raise NotApplicableError(f"captum cannot take this model apart: {error}") from error


def _bars(strength: Tensor, unit: str, place: str, what: str, step: int) -> Bars:
    values = _numbers(strength).astype(float)
    if not np.isfinite(values).all():
        raise NotApplicableError("the gradient is not finite")
    chosen = np.sort(np.argsort(-values, kind="stable")[:MOST_BARS])
    few = "" if len(chosen) == len(values) else f"; the {len(chosen)} strongest of {len(values)}"
    return Bars(
        kind="input gradients",
        place=place,
        step=step,
        caption=f"{what}, after {step} updates{few}",
        labels=tuple(f"{unit} {i}" for i in chosen),
        values=tuple(float(values[i]) for i in chosen),
    )


def _images(given: Tensor) -> list[Pixels]:
    """Return the first samples of a batch of images, in colours where they have three."""
    few = given[:SHOWN].detach().float()
    few = few.movedim(1, -1) if few.shape[1] == 3 else few.mean(dim=1)
    return [scaled(image) for image in _numbers(few)]


def _place(batch: Any, scores: Scores) -> str:
    """Return which tensor of the batch is the input, or else the module that takes it."""
    for name, tensor in named_tensors(batch):
        same = tensor.shape == scores.given.shape and tensor.dtype == scores.given.dtype
        if same and torch.equal(tensor, scores.given):
            return name
    return scores.call.path or "input"


def _is_images(out: Any) -> bool:
    fits = isinstance(out, Tensor) and out.ndim == 4 and out.is_floating_point()
    return fits and min(out.shape[2:]) > 1


def _numbers(values: Tensor) -> NDArray[Any]:
    return np.asarray(values.detach().float().cpu())


def _named(call: Call) -> str:
    return f"{call.path} ({type(call.module).__name__})"
