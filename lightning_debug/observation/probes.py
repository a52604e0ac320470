"""What experiments on a copy of the model have shown."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionGradient:
    """The gradient of one ``autograd.Function``, or of one module, against finite differences.

    Attributes:
        name: The class of the function or module.
        place: The module path in which it ran; ``"training_step"`` for the step itself.
        line: The line of the user's code that called it: ``"model.py:41"``.
        error: Relative error of the directional derivative, the median over the directions; nan
            where it could not be measured.
        numeric, analytic: The derivative by finite differences and by autograd, in one direction.
        surrogate: Why the gradient is not meant to be the true one: ``"identity"`` (reversed or
            scaled gradients), ``"flat"`` (rounding with a straight-through gradient), ``"solver"``
            (an iteration whose gradient is approximated), ``"hook"``, ``"rough"`` (no derivative
            to be found); empty if nothing says so.
    """

    name: str
    place: str = ""
    line: str = ""
    error: float = float("nan")
    numeric: float = float("nan")
    analytic: float = float("nan")
    surrogate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientCheck(Observation):
    """Gradients compared with directional finite differences, on a copy in float64.

    Attributes:
        whole: The loss of the training step with respect to all parameters.
        functions: Custom functions and, where the whole is wrong without one of them being so,
            the modules.
        skipped: Why it could not be done; empty if it was.
    """

    whole: FunctionGradient | None = None
    functions: tuple[FunctionGradient, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedOutput:
    """An output whose rows depend on other samples of the batch.

    Attributes:
        place: Path of the innermost module, or ``"training_step"``.
        kind: Class of the module; empty outside modules.
        function: The loss function that the prediction reaches, outside modules.
    """

    place: str
    kind: str = ""
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMixing(Observation):
    """Whether the output for a sample changes with another sample, in eval mode.

    Attributes:
        samples: How many samples were run together.
        outputs: Those that change.
    """

    samples: int = 0
    outputs: tuple[MixedOutput, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A prediction that the answer reaches through the input.

    Attributes:
        kind: ``"future"``: the input from the target on changes the prediction of it; ``"copy"``:
            the target of a causal model is its input at the same position; ``"column"``: the
            target is one value of the input.
        source: The tensor of the batch: ``"batch[0]"``.
        shift: By how many positions the target is ahead of the input.
        position: A position whose prediction changes, or the column.
        length: How many positions, or columns, there are.
        scaled: Whether the step has given the target another scale or offset.
        place: The innermost module in which it happens, or that of the loss.
        module: Class of that module; empty for the training step.
        function: The loss function.
    """

    kind: str
    source: str
    shift: int = 0
    position: int = 0
    length: int = 0
    scaled: bool = False
    place: str = ""
    module: str = ""
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureLeak(Observation):
    """Whether the output at a position changes with what comes after it."""

    leaks: tuple[Leak, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPadding:
    """An output for real tokens that changes when padding is cut off.

    Attributes:
        place: Path of the innermost module that reads padding, or ``"training_step"``.
        kind: Class of the module; empty outside modules.
        pooled: Whether the output sums up all positions.
        attends: Whether attention is at work in this place, and not only a mean or a sum.
        change: Size of the change over the size of the output, both rms.
    """

    place: str
    kind: str = ""
    pooled: bool = False
    attends: bool = True
    change: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingUse(Observation):
    """Whether the output for real tokens changes when padding is cut off.

    Attributes:
        source: What told the padding: ``"batch[0]"``.
        length: Positions of a sequence, with padding.
        longest: The longest real sequence among those that were cut.
        exchanged: Whether padding was exchanged for other tokens, as it could not be cut off.
        outputs: Those that change.
    """

    source: str = ""
    length: int = 0
    longest: int = 0
    exchanged: bool = False
    outputs: tuple[ReadPadding, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredInput:
    """Something that the model is given, and that changes nothing it puts out.

    Attributes:
        source: The argument (``"y"``) or the tensor of the batch (``"batch[0]"``).
        place: Path of the module that takes it; empty for the model itself.
        part: ``"all"``, ``"columns"`` or ``"positions"``.
        first, last: The columns, or the one position that is used.
        size: How many columns or positions there are.
    """

    source: str
    place: str = ""
    part: str = "all"
    first: int = 0
    last: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputUse(Observation):
    """Whether the output changes with each of the inputs."""

    ignored: tuple[IgnoredInput, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFiniteBirth(Observation):
    """The operation that made the first value that is not finite.

    Attributes:
        phase: ``"forward"`` or ``"backward"``.
        function: Name of the operation: ``"log"``.
        place: The module path in which it ran; ``"training_step"`` for the step itself.
        line: The line of the user's code: ``"model.py:41"``.
        low, high: Range of its first float operand, of the values that are finite.
    """

    phase: str = "forward"
    function: str = ""
    place: str = ""
    line: str = ""
    low: float = float("nan")
    high: float = float("nan")
