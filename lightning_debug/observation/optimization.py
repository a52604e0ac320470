"""What went back through the model, and what the optimizer made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardCall:
    """The gradient on its way through one leaf module."""

    place: str
    incoming_finite: bool = True
    outgoing_finite: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentFlow:
    """The gradient on its way back through the time steps of a recurrent layer.

    Attributes:
        norms: Norm of the gradient of what the layer took, by quarters of the sequence.
    """

    place: str
    norms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward(Observation):
    """The gradients of activations, in the order in which backward reached the modules.

    Attributes:
        loss_finite: Whether the loss was finite.
        broken: Names of parameters whose gradient is not finite.
        skipped: Whether the optimizer refused the step, as a gradient scaler does.
        recurrent: The gradient over the time steps of recurrent layers.
    """

    calls: tuple[BackwardCall, ...] = ()
    recurrent: tuple[RecurrentFlow, ...] = ()
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
        end: Whether its module feeds no other module with weights.
        ever: Whether it had a gradient at any earlier look or holds optimizer state.
        unit_spread, gradient_spread: How much its units, and their gradients, differ, relative
            to their size, or the loneliest of them from its twin (gates share a weight); only for
            parameters whose units were identical at the start.
        cut, cut_line, cut_place: Of one without a gradient, where that is known: the function
            that ended its graph, the line of the user's code, and the module that was running.
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
    end: bool = False
    ever: bool = False
    unit_spread: float = float("nan")
    gradient_spread: float = float("nan")
    cut: str = ""
    cut_line: str = ""
    cut_place: str = ""


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
    def stream(self) -> str:
        """Return the optimizer: each has its own gradients and updates in one look."""
        return self.optimizer

    @property
    def norm(self) -> float:
        """Return the Euclidean norm over all gradients that are there."""
        return math.sqrt(sum(g.norm**2 for g in self.parameters.values() if g.present))


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance(Observation):
    """A glance at one optimizer step, between two whole looks.

    Attributes:
        optimizer: Which one, such as ``"AdamW"`` or ``"SGD 1"`` where there are several.
        gradients: Euclidean norm of each gradient that is there, by parameter name.
        ratios: Root mean square of the change of a weight over that of the weight, over a strided
            sample of its elements, by parameter name; only of weights with two axes or more.
        lr: Largest learning rate of its groups; nan where it is not known.
        loss: The loss of the batch; nan where there is none.
    """

    optimizer: str
    gradients: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    lr: float = float("nan")
    loss: float = float("nan")

    @property
    def stream(self) -> str:
        """Return the optimizer: each has its own steps."""
        return self.optimizer

    @property
    def norm(self) -> float:
        """Return the Euclidean norm over all gradients that are there."""
        return math.sqrt(sum(norm**2 for norm in self.gradients.values()))


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
        base_lr: What a scheduler takes as the full learning rate of its group; nan without one.
        weight_decay: Weight decay of its group.
        decay: Where its weight decay goes, as in :class:`GroupPlan`.
        normalizes: Whether it scales or shifts what a norm gives, at this look.
        scheduled: Whether a scheduler drives that learning rate.
        group: Index of its group in the optimizer.
        fan_in: Inputs of one unit; 0 for vectors and scalars.
        trainable: Whether it asks for a gradient.
        stateful: Whether its optimizer keeps numbers of earlier steps for it.
    """

    update_rms: float = 1e-3
    weight_rms: float = 1.0
    changed: int = 1
    driven: int = 1
    moved: bool | None = None
    lr: float = 1e-3
    base_lr: float = float("nan")
    weight_decay: float = 0.0
    decay: str = ""
    normalizes: bool = False
    scheduled: bool = False
    group: int = 0
    fan_in: int = 1
    trainable: bool = True
    stateful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates(Observation):
    """What one step of an optimizer did to its parameters, by parameter name."""

    optimizer: str
    parameters: Mapping[str, ParameterUpdate] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        """Return the optimizer: each has its own gradients and updates in one look."""
        return self.optimizer

    @property
    def resting(self) -> bool:
        """Tell whether every learning rate is 0, as at the start of a warm-up."""
        return {update.lr for update in self.parameters.values()} == {0.0}
