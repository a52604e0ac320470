"""Finds training bugs in PyTorch Lightning runs and says what to type.

``Trainer(callbacks=[DebugSuite(debug=True)])`` watches a run; so does ``LIGHTNING_DEBUG=1``.

Names are imported when they are first used: the command line and Lightning's entry points need
this package without the cost of importing Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_debug.check import Check as Check
    from lightning_debug.experiment import Experiment as Experiment
    from lightning_debug.experiments.sharpness import Sharpness as Sharpness
    from lightning_debug.experiments.sharpness import sharpness as sharpness
    from lightning_debug.finding import Finding as Finding
    from lightning_debug.finding import Severity as Severity
    from lightning_debug.finding import TrainingBugError as TrainingBugError
    from lightning_debug.sinks.sink import Sink as Sink
    from lightning_debug.suite import ActivationStats as ActivationStats
    from lightning_debug.suite import BatchNormUse as BatchNormUse
    from lightning_debug.suite import BatchSize as BatchSize
    from lightning_debug.suite import DataQuality as DataQuality
    from lightning_debug.suite import DebugSuite as DebugSuite
    from lightning_debug.suite import DistributedTraining as DistributedTraining
    from lightning_debug.suite import DropoutUse as DropoutUse
    from lightning_debug.suite import GradientClipping as GradientClipping
    from lightning_debug.suite import GradientCorrectness as GradientCorrectness
    from lightning_debug.suite import GradientNorms as GradientNorms
    from lightning_debug.suite import InitialLoss as InitialLoss
    from lightning_debug.suite import LayerOrder as LayerOrder
    from lightning_debug.suite import LeakProbes as LeakProbes
    from lightning_debug.suite import LearningRate as LearningRate
    from lightning_debug.suite import LossCurve as LossCurve
    from lightning_debug.suite import LossFunction as LossFunction
    from lightning_debug.suite import MemoryUse as MemoryUse
    from lightning_debug.suite import MetricUse as MetricUse
    from lightning_debug.suite import ModelWiring as ModelWiring
    from lightning_debug.suite import ModuleModes as ModuleModes
    from lightning_debug.suite import NetworkPictures as NetworkPictures
    from lightning_debug.suite import NumericPrecision as NumericPrecision
    from lightning_debug.suite import OptimizerChoice as OptimizerChoice
    from lightning_debug.suite import OverfitTwoSamples as OverfitTwoSamples
    from lightning_debug.suite import Repeatability as Repeatability
    from lightning_debug.suite import RunTracker as RunTracker
    from lightning_debug.suite import SimpleBaseline as SimpleBaseline
    from lightning_debug.suite import UpdateRatios as UpdateRatios
    from lightning_debug.trial_run import Preflight as Preflight
    from lightning_debug.trial_run import preflight as preflight

__version__ = "0.1.0"

_HOMES = {
    "DebugSuite": "suite",
    "InitialLoss": "suite",
    "GradientNorms": "suite",
    "ActivationStats": "suite",
    "UpdateRatios": "suite",
    "LayerOrder": "suite",
    "LearningRate": "suite",
    "LeakProbes": "suite",
    "BatchSize": "suite",
    "LossFunction": "suite",
    "LossCurve": "suite",
    "DataQuality": "suite",
    "ModelWiring": "suite",
    "GradientClipping": "suite",
    "GradientCorrectness": "suite",
    "MemoryUse": "suite",
    "MetricUse": "suite",
    "NetworkPictures": "suite",
    "ModuleModes": "suite",
    "BatchNormUse": "suite",
    "DistributedTraining": "suite",
    "DropoutUse": "suite",
    "OptimizerChoice": "suite",
    "NumericPrecision": "suite",
    "OverfitTwoSamples": "suite",
    "Repeatability": "suite",
    "RunTracker": "suite",
    "SimpleBaseline": "suite",
    "Sharpness": "experiments.sharpness",
    "sharpness": "experiments.sharpness",
    "Experiment": "experiment",
    "Preflight": "trial_run",
    "preflight": "trial_run",
    "Check": "check",
    "Finding": "finding",
    "Severity": "finding",
    "TrainingBugError": "finding",
    "Sink": "sinks.sink",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
