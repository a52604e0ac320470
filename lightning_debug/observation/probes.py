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
        error: Relative error of the directional derivative, the smaller one of two step sizes and
            the median over the directions; nan where it could not be measured.
        numeric, analytic: The derivative by finite differences and by autograd, in one direction.
        surrogate: Why the gradient is not meant to be the true one: ``"identity"`` (reversed or
            scaled gradients), ``"flat"`` (rounding with a straight-through gradient), ``"solver"``
            (an iteration whose gradient is approximated), ``"hook"``; empty if nothing says so.
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
class BatchMixing(Observation):
    """Whether the output for a sample changes with another sample, in eval mode."""

    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureLeak(Observation):
    """Whether the output at a position changes with what comes after it."""

    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingUse(Observation):
    """Whether the output for real tokens changes when padding is cut off."""

    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputUse(Observation):
    """Whether the output changes with each of the inputs."""

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
