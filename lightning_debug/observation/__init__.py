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
from lightning_debug.observation.chains import LinearPair
from lightning_debug.observation.connections import (
    Connections,
    GradientUse,
    Rewrite,
    Stranger,
    Stray,
    Tie,
)
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
from lightning_debug.observation.modes import ModePart, Modes
from lightning_debug.observation.optimization import (
    Backward,
    BackwardCall,
    Gradients,
    ParameterGradient,
    ParameterUpdate,
    RecurrentFlow,
    Updates,
)
from lightning_debug.observation.probes import (
    BatchMixing,
    FunctionGradient,
    FutureLeak,
    GradientCheck,
    IgnoredInput,
    InputUse,
    Leak,
    MixedOutput,
    NonFiniteBirth,
    PaddingUse,
    ReadPadding,
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
    "FunctionGradient",
    "FutureLeak",
    "GradientCheck",
    "GradientUse",
    "Gradients",
    "IgnoredInput",
    "InputUse",
    "Leak",
    "LinearPair",
    "Loader",
    "LossCall",
    "LossCalls",
    "LossTerm",
    "LossTerms",
    "Losses",
    "MetricPass",
    "MixedOutput",
    "ModePart",
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
    "ReadPadding",
    "RecurrentFlow",
    "Rewrite",
    "RunEnd",
    "RunStart",
    "Stranger",
    "Stray",
    "TargetCall",
    "Targets",
    "Threshold",
    "Tie",
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
