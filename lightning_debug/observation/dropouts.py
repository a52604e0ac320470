"""Where values are dropped."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutCall:
    """One dropout that was active, as a module or as a function.

    Attributes:
        place: The module path in which it ran; ``"model"`` for the model itself.
        function: Name of the function: ``"dropout"``.
        p: Probability to drop a value.
        line: The line of the user's code that called it: ``"model.py:41"``.
        source: Where the tensor was made that it drops of; empty for data.
        loss: The function in which what it gives meets the target, with no layer in between;
            empty where it feeds a layer.
        drops: What is dropped as a whole, of an input that was laid out for another dropout:
            ``"samples"`` or ``"steps"``; ``"values"`` of an input without channels, by a dropout
            of channels; empty where it drops what it is made for.
        shape: Of the input.
        declared: Whether the code says that it is meant to be on in evaluation too.
        outside: Whether a module that the model does not know runs it.
        passes: How often one input ran through the model in the batch.
        noise: Of noise that is added: its spread relative to that of what it is added to; 0 of a
            dropout.
    """

    place: str
    function: str = "dropout"
    p: float = 0.5
    line: str = ""
    source: str = "net.0"
    loss: str = ""
    drops: str = ""
    shape: tuple[int, ...] = ()
    declared: bool = False
    outside: bool = False
    passes: int = 1
    noise: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LostProbability:
    """A probability that became 0 while validation ran, and still is 0 in training.

    Attributes:
        place: The module that holds it.
        attribute: Its name there: ``"p"``.
        before: What it was.
    """

    place: str
    attribute: str = "p"
    before: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropouts(Observation):
    """The dropouts that were active in one step.

    Attributes:
        stage: ``"training"``; or ``"validation"``: those that modules in eval mode ran.
        calls: One for each place and line.
        lost: Probabilities that validation has set to 0.
    """

    stage: str = "training"
    calls: tuple[DropoutCall, ...] = ()
    lost: tuple[LostProbability, ...] = ()

    @property
    def stream(self) -> str:
        """Return the stage: looks in a row are of one."""
        return self.stage
