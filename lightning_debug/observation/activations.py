"""What the modules of the model produced."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation
from lightning_debug.observation.chains import LinearPair
from lightning_debug.observation.data import DataEntry


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
        positions, input_positions: The same for the positions of each sample, such as tokens;
            nan where there are fewer than four, or none.
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
    positions: float = float("nan")
    input_positions: float = float("nan")


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
    """Which layer fed which, and what the data are where they enter, at the first looks.

    Attributes:
        entries: The data where they meet the first weights.
        linear_pairs: Weight layers that feed each other with nothing non-linear in between.
        bent: Weight layers whose output went anywhere else.
    """

    dropped_norms: tuple[DroppedNorm, ...] = ()
    entries: tuple[DataEntry, ...] = ()
    linear_pairs: tuple[LinearPair, ...] = ()
    bent: tuple[str, ...] = ()
