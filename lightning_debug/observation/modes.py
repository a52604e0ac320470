"""In which mode the modules run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_debug.observation.base import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePart:
    """A module that ran in the mode of the other stage, as a whole, and computed otherwise for it.

    Attributes:
        place: Path of the outermost module in that mode; empty for the whole model.
        kind: Its class.
        dropouts: Places of the dropout in it that was switched off, or on.
        norms: Places of the batch norms in it that used running statistics, or the batch's.
        weights: Whether it holds weight matrices.
        trained: Whether these are trained, most of them; of the whole model, whether those next
            to a dropout or batch norm are.
        chosen: Whether a ``train()`` method that the user wrote decides about its mode.
        sampled: Whether one input ran through it more than once.
    """

    place: str = ""
    kind: str = ""
    dropouts: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    weights: bool = True
    trained: bool = True
    chosen: bool = False
    sampled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes(Observation):
    """In which mode the modules ran, in a training step or in the first validation steps.

    Attributes:
        stage: ``"training"`` or ``"validation"``.
        parts: What ran in eval mode in training with gradients on, or in train mode in
            validation with gradients off.
    """

    stage: str = "training"
    parts: tuple[ModePart, ...] = ()

    @property
    def stream(self) -> str:
        """Return the stage: what was seen in validation says nothing of training."""
        return self.stage
