"""Weight decay that goes through an adaptive step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.chance import Chances
from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Gradients,
    LossCalls,
    Losses,
    ParameterUpdate,
    Plan,
    Updates,
)
from lightning_debug.shrinking import Shrinking

MATRICES = 0.5


@dataclass(kw_only=True)
class AdamWithL2(Check):
    """The weight decay of Adam (RMSprop, Adagrad) is added to the gradient, not to the step.

    Why: an adaptive step divides the gradient, with the decay in it, by its own size. So decay
    hardly touches weights with large gradients, and where the data gradient is small it takes
    over: every such weight shrinks by a full learning rate a step, however little was asked for.
    AdamW takes the decay off the weights instead.

    A warning where decay outweighs the data gradient in most weight matrices, look after look, of
    a model that has not learned, and the same decay beside the step would not.

    Silent when: decay is decoupled (AdamW, Adam with decoupled_weight_decay=True, Lion); the
    optimizer is not adaptive; there is none.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019).

    Args:
        learned: Share of its chance level below which the loss says that the model learns. Where
            no level is known, it does unless weights have shrunk by a tenth and the loss has not.
        share: Share of the step that decay beside it may make.
        patience: Looks in a row at which decay has to outweigh the data.
    """

    severity = Severity.INFO
    fix = "torch.optim.AdamW(...) with the same arguments: it takes the decay off the weights."

    learned: float = 0.9
    share: float = 0.5
    patience: int = 8
    _chances: Chances = field(default_factory=Chances, init=False, repr=False)
    _standing: float = field(default=math.nan, init=False, repr=False)
    _shrinking: Shrinking = field(default_factory=Shrinking, init=False, repr=False)
    _gradients: dict[str, Gradients] = field(default_factory=dict, init=False, repr=False)

    def on_plan(self, obs: Plan) -> Iterator[Finding]:
        """Read the settings of the optimizers."""
        for optimizer in obs.optimizers:
            decays = [
                group.settings.get("weight_decay", 0.0)
                for group in optimizer.groups
                if group.decay == "adaptive"
            ]
            if decays:
                message = (
                    f"weight_decay={max(decays):g} of {optimizer.label} is added to the gradient,"
                    " which the step then divides by its size."
                )
                yield self.finding(
                    obs, message, where=optimizer.label, patience=1, weight_decay=max(decays)
                )

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Remember where the loss stands."""
        shares = [standing.share for standing in self._chances.update(obs)]
        self._standing = min((s for s in shares if not math.isnan(s)), default=math.nan)
        yield from ()

    def on_losses(self, obs: Losses) -> Iterator[Finding]:
        """Remember where the whole loss is: not every loss has a chance level."""
        self._shrinking.hear_losses(obs)
        yield from ()

    def on_gradients(self, obs: Gradients) -> Iterator[Finding]:
        """Remember the gradients that the optimizer gets."""
        self._gradients[obs.optimizer] = obs
        self._shrinking.hear_gradients(obs)
        yield from ()

    def on_updates(self, obs: Updates) -> Iterator[Finding]:
        """Compare decay and data in the gradient of each weight matrix."""
        gradients = self._gradients.get(obs.optimizer)
        unknown = math.isnan(self._standing)
        idle = self._shrinking.stuck if unknown else self._standing >= self.learned
        if gradients is None or not idle:
            return
        parts: list[tuple[float, ParameterUpdate]] = []
        for name, update in obs.parameters.items():
            gradient = gradients.parameters.get(name)
            if gradient is None or not gradient.present or not update.fan_in or not update.lr:
                continue
            decay = update.weight_decay * gradient.weight_norm
            adaptive = update.decay == "adaptive"
            parts.append((decay / max(gradient.norm, 1e-30) if adaptive else 0.0, update))
        led = [(ratio, update) for ratio, update in parts if ratio > 1.0]
        if not led or len(led) <= MATRICES * len(parts):
            return
        # The same decay beside the step, as a share of a step of one learning rate.
        beside = median(update.weight_decay * update.weight_rms for _, update in led)
        if beside < self.share:
            weakest = min(ratio for ratio, _ in led)
            message = (
                f"weight_decay={led[0][1].weight_decay:g} of {obs.optimizer} goes through the"
                f" adaptive step: in {len(led)} of {len(parts)} weight matrices it is at least"
                f" {weakest:.2g} times the data gradient, and the loss"
                + (" has not fallen." if unknown else f" is at {self._standing:.0%} of chance.")
            )
            yield self.finding(
                obs,
                message,
                where=obs.optimizer,
                severity=Severity.WARNING,
                ratio=weakest,
                matrices=len(led),
            )
