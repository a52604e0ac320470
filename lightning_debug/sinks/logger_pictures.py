"""Shows pictures in the loggers that can show them, each in its own way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_debug.picture import Bars, Histogram, Image, Network, Picture
from lightning_debug.sinks.logger_kinds import for_logger
from lightning_debug.sinks.text import plain

LONGEST, MOST_WORDS = 200, 1000

Show = Callable[[Any, str, Any], None]


def show(logger: Any, prefix: str, picture: Picture) -> None:
    """Show a picture in a logger, if it is one that can.

    Args:
        logger: Of the trainer.
        prefix: Of the names of all that is logged.
        picture: What is to be seen; a network is left to the report.
    """
    if isinstance(picture, Network):
        return
    shower = (for_logger(logger, SHOWERS) or {}).get(type(picture))
    if shower is not None:
        shower(logger, prefix + _name(picture), picture)


def _name(picture: Histogram | Image | Bars) -> str:
    """Return a name that every logger takes, also as that of a file."""
    parts = picture.kind, picture.place[:LONGEST]
    return "/".join(re.sub(r"[^\w.-]", "_", part, flags=re.ASCII) for part in parts)


def _caption(picture: Image | Bars) -> str:
    return plain(picture.caption[:MOST_WORDS])


def _edges(histogram: Histogram) -> NDArray[np.float64]:
    return np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)


def _centres(histogram: Histogram) -> NDArray[np.float64]:
    edges = _edges(histogram)
    return (edges[:-1] + edges[1:]) / 2


def _table(bars: Bars) -> str:
    """Return bars as lines of text, in the way of Markdown."""
    rows = zip(bars.labels, bars.values, strict=True)
    lines = [f"| {plain(label).replace('|', '/')} | {value:.4g} |" for label, value in rows]
    return "\n".join([f"    {_caption(bars)}", "", "| | |", "|---|---|", *lines])


# -- TensorBoard ---------------------------------------------------------------------------


def _histogram_in_tensorboard(logger: Any, name: str, histogram: Histogram) -> None:
    counts, centres = np.array(histogram.counts), _centres(histogram)
    logger.experiment.add_histogram_raw(
        name,
        min=histogram.low,
        max=histogram.high,
        num=int(counts.sum()),
        sum=float(counts @ centres),
        sum_squares=float(counts @ centres**2),
        bucket_limits=_edges(histogram)[1:].tolist(),
        bucket_counts=list(histogram.counts),
        global_step=histogram.step,
    )


def _image_in_tensorboard(logger: Any, name: str, image: Image) -> None:
    layout = "HWC" if image.pixels.ndim == 3 else "HW"
    logger.experiment.add_image(name, image.pixels, image.step, dataformats=layout)
    # It shows no captions; four spaces keep the text as it is.
    logger.experiment.add_text(name, "    " + _caption(image), image.step)


def _bars_in_tensorboard(logger: Any, name: str, bars: Bars) -> None:
    logger.experiment.add_text(name, _table(bars), bars.step)


# -- Weights & Biases ----------------------------------------------------------------------


def _histogram_in_wandb(logger: Any, name: str, histogram: Histogram) -> None:
    import wandb

    counted = wandb.Histogram(np_histogram=(np.array(histogram.counts), _edges(histogram)))
    logger.log_metrics({name: counted}, step=histogram.step)


def _image_in_wandb(logger: Any, name: str, image: Image) -> None:
    logger.log_image(name, [image.pixels], step=image.step, caption=[_caption(image)])


def _bars_in_wandb(logger: Any, name: str, bars: Bars) -> None:
    rows = [[plain(label), value] for label, value in zip(bars.labels, bars.values, strict=True)]
    logger.log_table(name, columns=["", _caption(bars)], data=rows, step=bars.step)


# -- MLflow --------------------------------------------------------------------------------


def _image_in_mlflow(logger: Any, name: str, image: Image) -> None:
    path = f"{name}-{image.step}"
    logger.experiment.log_image(logger.run_id, image.pixels, path + ".png")
    logger.experiment.log_text(logger.run_id, _caption(image), path + ".txt")


def _bars_in_mlflow(logger: Any, name: str, bars: Bars) -> None:
    logger.experiment.log_text(logger.run_id, _table(bars), f"{name}-{bars.step}.md")


# -- Comet ---------------------------------------------------------------------------------


def _histogram_in_comet(logger: Any, name: str, histogram: Histogram) -> None:
    # It counts by itself, so it gets a value for each that was counted.
    values = np.repeat(_centres(histogram), histogram.counts)
    logger.experiment.log_histogram_3d(values, name=name, step=histogram.step)


def _image_in_comet(logger: Any, name: str, image: Image) -> None:
    logger.experiment.log_image(
        image.pixels, name=name, step=image.step, metadata={"caption": _caption(image)}
    )


def _bars_in_comet(logger: Any, name: str, bars: Bars) -> None:
    logger.experiment.log_text(_table(bars), step=bars.step)


SHOWERS: Mapping[str, Mapping[type, Show]] = {
    "TensorBoardLogger": {
        Histogram: _histogram_in_tensorboard,
        Image: _image_in_tensorboard,
        Bars: _bars_in_tensorboard,
    },
    "WandbLogger": {
        Histogram: _histogram_in_wandb,
        Image: _image_in_wandb,
        Bars: _bars_in_wandb,
    },
    "MLFlowLogger": {Image: _image_in_mlflow, Bars: _bars_in_mlflow},
    "CometLogger": {
        Histogram: _histogram_in_comet,
        Image: _image_in_comet,
        Bars: _bars_in_comet,
    },
}
