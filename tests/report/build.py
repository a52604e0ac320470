"""Runs as they are read back from a run folder, made by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from lightning_debug.experiment import Experiment
from lightning_debug.look import Look
from lightning_debug.picture import Bars, Histogram, Image, Network, Node
from lightning_debug.registry import all_checks
from lightning_debug.stored_run import StoredRun

LAYERS = ("net.0", "net.1", "net.2")


def stored(**changes):
    """Return a small healthy run that was looked at from all sides, with the changes."""
    fields = {
        "folder": Path("runs/lightning_debug"),
        "record": record(),
        "stats": [look(step) for step in range(0, 20, 2)],
        "experiments": [experiment()],
        "network": network(),
        "pictures": [image(), bars(), histogram()],
    }
    return StoredRun(**{**fields, **changes})


def record(**changes):
    """Return what ``run.json`` of a completed run holds, with the changes."""
    fields = {
        "status": "completed",
        "started": "2026-01-31T09:30:00+00:00",
        "seconds": 75.0,
        "step": 20,
        "epoch": 1,
        "record": {
            "model": "Classifier",
            "trainer": {"precision": "32-true", "devices": 1},
            "packages": {"torch": "2.8.0"},
        },
        "metrics": {"val_loss": 0.25},
        "looked": dict.fromkeys(all_checks(), 20),
        "observed": {"Gradients": 20, "Validation": 2},
        "failures": {},
    }
    return {**fields, **changes}


def look(step, **changes):
    """Return a look at three layers."""
    metrics = ("gradient-norm", "update-ratio", "activation-rms", "activation-spread")
    fields = {
        "step": step,
        "epoch": 0,
        "scalars": {
            "gradient-norm": 1.0,
            "learning-rate/Adam": 1e-3,
            "clip-factor/Adam": 0.5,
            "noise-scale": 64.0,
        },
        "layers": {metric: dict.fromkeys(LAYERS, 1.0 / (step + 1)) for metric in metrics}
        | {"dead-share": {"net.1": 0.25}},
        "losses": ((step, 2.0 / (step + 1)), (step + 1, 2.0 / (step + 2))),
    }
    return Look(**{**fields, **changes})


def network(*kinds):
    """Return a chain of modules of these kinds."""
    kinds = kinds or ("Linear", "ReLU", "Linear")
    modules = [Node(name=f"net.{i}", kind=kind, shape=(8, 4)) for i, kind in enumerate(kinds)]
    nodes = (Node(name="batch[0]", kind="input", role="input", shape=(8, 4)), *modules)
    names = [node.name for node in nodes]
    return Network(nodes=nodes, edges=tuple(pairwise(names)))


def experiment(**changes):
    """Return an experiment that went well, with the changes."""
    fields = {
        "name": "one or two samples by heart",
        "outcome": "passed",
        "detail": "2 samples in 5 steps",
        "curve": (2.0, 1.0, 0.5),
    }
    return Experiment(**{**fields, **changes})


def image(**changes):
    """Return a small grey image, with the changes."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    fields = {
        "kind": "filters",
        "place": "net.0",
        "step": 4,
        "caption": "8 filters",
        "pixels": pixels,
    }
    return Image(**{**fields, **changes})


def bars(**changes):
    """Return the strength of two columns, with the changes."""
    fields = {
        "kind": "input gradients",
        "place": "batch[0]",
        "step": 4,
        "caption": "strength of the gradient by column",
        "labels": ("age", "height"),
        "values": (0.5, 0.25),
    }
    return Bars(**{**fields, **changes})


def histogram():
    """Return a histogram of three bins."""
    return Histogram(kind="weights", place="net.0", step=4, low=-1.0, high=1.0, counts=(1, 2, 1))
