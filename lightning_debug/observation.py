"""The kinds of observation: frozen, numbers only, what happened at one look.

Taps measure them, checks read them. Places are module paths (``"encoder.0"``), parameters have
their names in ``LightningModule.named_parameters()``. Ratios and root mean squares (rms) have no
unit; losses have the unit of the user's loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Something that was measured after ``step`` optimizer updates."""

    step: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterStart:
    """A parameter before the first step of the run.

    Attributes:
        rms: Root mean square of a strided sample of its elements.
        largest: Largest magnitude in the sample.
        fan_in: Inputs of one unit, ``numel / shape[0]``; 0 for vectors and scalars.
        identical_units: Whether it has several units and all of them hold the same values.
    """

    shape: tuple[int, ...]
    module: str = ""
    trainable: bool = True
    optimizer: str = ""
    rms: float = 1.0
    largest: float = 1.0
    fan_in: int = 0
    identical_units: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Observation):
    """Who owns, trains and optimizes which tensor when training starts."""

    parameters: Mapping[str, ParameterStart] = field(default_factory=dict)
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCall:
    """One call of a loss function in the training step.

    ``value`` and ``references`` are means per target, whatever the reduction of the call.

    Attributes:
        place: Where it was called: the module path, or ``"training_step"``.
        value: Loss of the model's prediction.
        references: The same call on constant predictions, by what was predicted: ``"uniform"``
            (equal logits), ``"prior"`` (class shares of the batch), ``"zero"``, ``"mean"`` (of the
            targets).
        classes: Number of classes that the call reveals; 0 for a regression.
        prediction_rms: Root mean square of the prediction.
        target_mean, target_std: Of float targets, over the batch.
        margin, margin_size: How far the logit of the true class lies below the others, in
            standard errors and in standard deviations of the logits; both are large before
            training only where the labels enter the logits (margin losses).
        unscaled: The loss with a constant factor on the logits (temperature) taken out; nan
            where there is no such factor.
    """

    function: str
    place: str = "training_step"
    value: float = float("nan")
    references: Mapping[str, float] = field(default_factory=dict)
    classes: int = 0
    prediction_rms: float = float("nan")
    target_mean: float = float("nan")
    target_std: float = float("nan")
    margin: float = 0.0
    margin_size: float = 0.0
    unscaled: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCalls(Observation):
    """The loss functions that the training step called, in order."""

    calls: tuple[LossCall, ...] = ()
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCall:
    """One execution of a leaf module.

    Attributes:
        kind: Class name of the module.
        parametric: Whether it owns parameters.
        trained: Whether its output carries a gradient.
        integer_input: Whether it looks up token ids or categories.
        head: Whether no parametric module runs after it.
        normalized: Whether its output goes into a normalisation or a periodic function, so that
            its size tells nothing.
        source: Place of the weights that made its input, by way of functions; empty if none.
        reads_input: Whether a function in it took its input; a table of tokens or positions only
            asks for the batch size.
        rms, input_rms: Root mean square of its output and of its float input.
        finite, input_finite: Whether all values are finite; inputs include the parameters.
        spread, input_spread: How much samples differ: standard deviation over the samples of the
            batch, relative to the rms. nan for a batch of fewer than four samples.
    """

    place: str
    kind: str = ""
    parametric: bool = False
    trained: bool = True
    integer_input: bool = False
    head: bool = False
    normalized: bool = False
    source: str = ""
    reads_input: bool = True
    rms: float = float("nan")
    input_rms: float = float("nan")
    finite: bool = True
    input_finite: bool = True
    parameters_finite: bool = True
    spread: float = float("nan")
    input_spread: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class NonlinearCall:
    """One execution of a non-linearity, as a module or as a function.

    Attributes:
        place: The module path, or ``"producer > function"`` for a function.
        kind: ``"relu"``, ``"sigmoid"`` or ``"tanh"``.
        head: Whether no parametric module runs after it: an output, not a hidden unit.
        gate: Whether its output multiplies another tensor, other than a weight matrix.
        compared: Whether its output is held against another tensor, as a prediction is; what goes
            into a sum at once is a penalty.
        units: Number of its units: channels, or features.
        dead_share: Share of units that gave zero for every sample at each look of the window.
        dead_margin: How far the largest pre-activation of those units in the window lies below
            zero, in standard deviations of the unit; lower quartile over the units.
        dead_looks, dead_samples: Size of that window: looks, and values seen of each unit.
        saturated_share: Share of values pinned at a bound of the function.
    """

    place: str
    kind: str
    trained: bool = True
    head: bool = False
    gate: bool = False
    compared: bool = False
    units: int = 0
    dead_share: float = 0.0
    dead_margin: float = 0.0
    dead_looks: int = 0
    dead_samples: int = 0
    saturated_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations(Observation):
    """What the modules of the model produced, in the order in which they ran.

    Attributes:
        batch_finite: Whether the float tensors of the batch hold only finite values.
        harmful: Whether the loss or a gradient that the optimizer used was not finite.
    """

    modules: tuple[ModuleCall, ...] = ()
    nonlinear: tuple[NonlinearCall, ...] = ()
    batch_finite: bool = True
    harmful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedNorm:
    """A batch norm that was fed from a dropout with no weight layer in between.

    Attributes:
        through: Functions between the two, in order.
        shift: Variance that the batch norm sees in training over the one it would see without
            the dropout, as in evaluation; median over channels.
    """

    dropout: str
    norm: str
    p: float
    shift: float
    through: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFlow(Observation):
    """Which layer fed which, by the tensors that went from one to the other."""

    dropped_norms: tuple[DroppedNorm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses(Observation):
    """The losses of all steps since the last look, as ``(step, loss)``, oldest first.

    Attributes:
        activations_finite: Whether every module that ran gave finite values at this look.
        broken: Names of parameters that hold values that are not finite.
        skipped: Whether the optimizer refused the step, as a gradient scaler does.
    """

    values: tuple[tuple[int, float], ...] = ()
    activations_finite: bool = True
    broken: tuple[str, ...] = ()
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardCall:
    """The gradient on its way through one leaf module."""

    place: str
    incoming_finite: bool = True
    outgoing_finite: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward(Observation):
    """The gradients of activations, in the order in which backward reached the modules.

    Attributes:
        loss_finite: Whether the loss was finite.
        broken: Names of parameters whose gradient is not finite.
        skipped: Whether the optimizer refused the step, as a gradient scaler does.
    """

    calls: tuple[BackwardCall, ...] = ()
    loss_finite: bool = True
    activations_finite: bool = True
    broken: tuple[str, ...] = ()
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGradient:
    """The gradient of one parameter, unscaled, before clipping.

    Attributes:
        present: Whether backward wrote a gradient at all; the numbers below need one.
        norm: Euclidean norm of the gradient.
        largest: Largest magnitude; exactly 0 only where every element is.
        rms: Root mean square over its non-zero elements (a lookup table touches few rows).
        weight_rms, weight_norm: Root mean square and Euclidean norm of the parameter.
        finite, weight_finite: Whether all elements are finite.
        dims: Number of dimensions of the parameter.
        order: Position of its module in the forward pass; -1 if the module did not run.
        executed: Whether the module that owns it ran.
        routed: Whether a sibling in the same container of modules ran instead of it.
        ever: Whether it had a gradient at any earlier look or holds optimizer state.
        unit_spread, gradient_spread: How much its units, and their gradients, differ, relative
            to their size, or the loneliest of them from its twin (gates share a weight); only for
            parameters whose units were identical at the start.
    """

    present: bool = True
    norm: float = 1.0
    largest: float = 1.0
    rms: float = 1.0
    weight_rms: float = 1.0
    weight_norm: float = 1.0
    finite: bool = True
    weight_finite: bool = True
    dims: int = 2
    order: int = 0
    executed: bool = True
    routed: bool = False
    ever: bool = False
    unit_spread: float = float("nan")
    gradient_spread: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients(Observation):
    """The gradients that an optimizer is about to use, by parameter name.

    Attributes:
        optimizer: Which one, such as ``"AdamW"`` or ``"SGD 1"`` where there are several.
        orphans: Names of trainable parameters with a gradient that no optimizer holds and
            nobody changed since the last look.
        waiting: The same for parameters that an optimizer holds which has not made a step yet,
            with that optimizer.
        loss: The loss that they belong to; nan where it is unknown.
        muted: Whether the training step multiplied a term of the loss by 0.
        stepped: Whether the optimizer used them; a gradient scaler may refuse.
    """

    optimizer: str
    parameters: Mapping[str, ParameterGradient] = field(default_factory=dict)
    orphans: tuple[str, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    loss: float = float("nan")
    muted: bool = False
    stepped: bool = True

    @property
    def norm(self) -> float:
        """Return the Euclidean norm over all gradients that are there."""
        return math.sqrt(sum(g.norm**2 for g in self.parameters.values() if g.present))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterUpdate:
    """The true change of one parameter in one optimizer step, over a strided sample of elements.

    Attributes:
        update_rms: Root mean square of the change, over the elements that changed.
        weight_rms: Root mean square of the parameter before the step.
        changed: Number of sampled elements that changed.
        driven: Number of sampled elements whose gradient is not zero.
        moved: Whether it differs from its value before the last measured step of this
            optimizer; None where that is not known.
        lr: Learning rate of its group.
        scheduled: Whether a scheduler drives that learning rate.
        group: Index of its group in the optimizer.
        fan_in: Inputs of one unit; 0 for vectors and scalars.
        trainable: Whether it asks for a gradient.
    """

    update_rms: float = 1e-3
    weight_rms: float = 1.0
    changed: int = 1
    driven: int = 1
    moved: bool | None = None
    lr: float = 1e-3
    scheduled: bool = False
    group: int = 0
    fan_in: int = 1
    trainable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates(Observation):
    """What one step of an optimizer did to its parameters, by parameter name."""

    optimizer: str
    parameters: Mapping[str, ParameterUpdate] = field(default_factory=dict)

    @property
    def resting(self) -> bool:
        """Tell whether every learning rate is 0, as at the start of a warm-up."""
        return {update.lr for update in self.parameters.values()} == {0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Observation):
    """The run is over, or was interrupted."""

    completed: bool = True


def owner(parameter: str) -> str:
    """Return the path of the module that owns a parameter: ``"net.0.weight"`` -> ``"net.0"``."""
    return parameter.rpartition(".")[0]


def hook(kind: type[Observation]) -> str:
    """Return the name of the check method for a kind: ``LossCalls`` -> ``"on_loss_calls"``."""
    return "on_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


KINDS: tuple[type[Observation], ...] = (
    RunStart,
    Activations,
    LossCalls,
    DataFlow,
    Losses,
    Backward,
    Gradients,
    Updates,
    RunEnd,
)
