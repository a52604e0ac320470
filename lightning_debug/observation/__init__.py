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
from lightning_debug.observation.clipping import Clipping
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
from lightning_debug.observation.dropouts import DropoutCall, Dropouts, LostProbability
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
from lightning_debug.observation.noise import GradientNoise
from lightning_debug.observation.norms import BatchNormCall, BatchNorms, ModeGap, NormedBias
from lightning_debug.observation.optimization import (
    Backward,
    BackwardCall,
    Gradients,
    ParameterGradient,
    ParameterUpdate,
    RecurrentFlow,
    Updates,
)
from lightning_debug.observation.plan import GroupPlan, OptimizerPlan, Plan
from lightning_debug.observation.precision import FlushedGradient, NarrowParameter, Precision
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
from lightning_debug.observation.rates import RateArm, RateTrial, StepResponse
from lightning_debug.observation.schedules import RateState, Schedules, ScheduleState
from lightning_debug.observation.start import ParameterStart, RunEnd, RunStart
from lightning_debug.observation.tracking import MetricPass, Threshold, Tracking, Watcher

__all__ = [
    "KINDS",
    "Activations",
    "Backward",
    "BackwardCall",
    "Batch",
    "BatchMixing",
    "BatchNormCall",
    "BatchNorms",
    "BatchTensor",
    "BrokenTensor",
    "ClassCounts",
    "Clipping",
    "Column",
    "Comparison",
    "Connections",
    "DataEntry",
    "DataFlow",
    "DropoutCall",
    "Dropouts",
    "DroppedNorm",
    "Ends",
    "EpochStart",
    "FlushedGradient",
    "FunctionGradient",
    "FutureLeak",
    "GradientCheck",
    "GradientNoise",
    "GradientUse",
    "Gradients",
    "GroupPlan",
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
    "LostProbability",
    "MetricPass",
    "MixedOutput",
    "ModeGap",
    "ModePart",
    "Modes",
    "ModuleCall",
    "NarrowParameter",
    "NonFiniteBirth",
    "NonlinearCall",
    "NormedBias",
    "Observation",
    "OptimizerPlan",
    "PaddingUse",
    "ParameterGradient",
    "ParameterStart",
    "ParameterUpdate",
    "Plan",
    "Precision",
    "Predictions",
    "RateArm",
    "RateState",
    "RateTrial",
    "ReadPadding",
    "RecurrentFlow",
    "Rewrite",
    "RunEnd",
    "RunStart",
    "ScheduleState",
    "Schedules",
    "StepResponse",
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
    Plan,
    Schedules,
    GradientCheck,
    BatchMixing,
    FutureLeak,
    PaddingUse,
    InputUse,
    ModeGap,
    GradientNoise,
    RateTrial,
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
    Clipping,
    Precision,
    Updates,
    StepResponse,
    BatchNorms,
    Dropouts,
    Modes,
    Validation,
    Tracking,
    RunEnd,
)
