"""The kinds of observation: frozen, numbers only, what happened at one look.

Taps measure them, checks read them. Places are module paths (``"encoder.0"``), parameters have
their names in ``LightningModule.named_parameters()``. Ratios and root mean squares (rms) have no
unit; losses have the unit of the user's loss.
"""

from __future__ import annotations

from lightning_debug.observation.activations import (
    Activations,
    DataFlow,
    DroppedNorm,
    ModuleCall,
    NonlinearCall,
)
from lightning_debug.observation.base import Observation, hook, owner
from lightning_debug.observation.connections import Connections
from lightning_debug.observation.data import (
    Batch,
    BatchTensor,
    BrokenTensor,
    Column,
    Comparison,
    DataEntry,
    EpochStart,
    Loader,
    TargetCall,
    Validation,
    ValidationPrints,
)
from lightning_debug.observation.loss import (
    ClassCounts,
    Ends,
    LossCall,
    LossCalls,
    Losses,
    LossTerm,
    LossTerms,
    Predictions,
    Targets,
    WholeLoss,
)
from lightning_debug.observation.modes import Modes
from lightning_debug.observation.optimization import (
    Backward,
    BackwardCall,
    Gradients,
    ParameterGradient,
    ParameterUpdate,
    Updates,
)
from lightning_debug.observation.probes import (
    BatchMixing,
    FutureLeak,
    GradientCheck,
    InputUse,
    NonFiniteBirth,
    PaddingUse,
)
from lightning_debug.observation.start import ParameterStart, RunEnd, RunStart
from lightning_debug.observation.tracking import MetricPass, Threshold, Tracking, Watcher

__all__ = [
    "KINDS",
    "Activations",
    "Backward",
    "BackwardCall",
    "Batch",
    "BatchMixing",
    "BatchTensor",
    "BrokenTensor",
    "ClassCounts",
    "Column",
    "Comparison",
    "Connections",
    "DataEntry",
    "DataFlow",
    "DroppedNorm",
    "Ends",
    "EpochStart",
    "FutureLeak",
    "GradientCheck",
    "Gradients",
    "InputUse",
    "Loader",
    "LossCall",
    "LossCalls",
    "LossTerm",
    "LossTerms",
    "Losses",
    "MetricPass",
    "Modes",
    "ModuleCall",
    "NonFiniteBirth",
    "NonlinearCall",
    "Observation",
    "PaddingUse",
    "ParameterGradient",
    "ParameterStart",
    "ParameterUpdate",
    "Predictions",
    "RunEnd",
    "RunStart",
    "TargetCall",
    "Targets",
    "Threshold",
    "Tracking",
    "Updates",
    "Validation",
    "ValidationPrints",
    "Watcher",
    "WholeLoss",
    "hook",
    "owner",
]

# In the order in which the observations of one look are shown.
KINDS: tuple[type[Observation], ...] = (
    RunStart,
    GradientCheck,
    BatchMixing,
    FutureLeak,
    PaddingUse,
    InputUse,
    NonFiniteBirth,
    Batch,
    Activations,
    LossCalls,
    LossTerms,
    DataFlow,
    Losses,
    Backward,
    Connections,
    Gradients,
    Updates,
    Modes,
    Validation,
    Tracking,
    RunEnd,
)
