"""Rectifiers that never fire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import BY_UPDATES, Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Activations


@dataclass(kw_only=True)
class DeadRelu(Check):
    """Most units of a layer give zero for every sample, so their weights get no gradient.

    Why: the slope of a ReLU is zero where its input is negative. A unit that is negative for all
    samples never changes again. Large steps and negative biases kill units.

    Silent when: units are merely sparse, because a unit counts as dead only if its largest input
    over all samples of many batches is clearly negative; few samples were seen; the layer is
    narrow or frozen; the function is smooth (GELU, SiLU) or leaky; it is the hinge of a loss,
    which is zero when all is well.

    Args:
        share: Smallest share of dead units in a layer that is told.
        units: Fewest units in a layer of which only some are dead. Inputs that hardly vary leave
            it to the sign of the initial weights whether a unit fires, so in a narrow layer most
            units may be dead by chance; there all of them have to be.
        looks: Batches over which a unit has to be silent.
        samples: Fewest values of each unit in these batches.
        depth: How far the largest input of the dead units lies below zero, in standard
            deviations (lower quartile over the units).
    """

    symptom_of = (
        "learning-rate-too-high",
        "update-too-large",
        "exploding-gradient",
        "symmetric-init",
        "input-not-normalized",
        "constant-input",
    )
    fix = (
        "Lower the learning rate, start the biases at 0 and the weights with"
        " torch.nn.init.kaiming_normal_, normalise the inputs; or use nn.LeakyReLU or nn.GELU."
    )

    share: float = 0.7
    units: int = 16
    looks: int = 8
    samples: int = 200
    depth: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share that is no share."""
        super().__post_init__()
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share={self.share!r} must lie above 0 and not above 1")

    _born: set[str] = field(default_factory=set, init=False, repr=False)
    _killed: bool = field(default=False, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Leave updates out where units have been dead from the first batch on."""
        return tuple(n for n in self.symptom_of if self._killed or n not in BY_UPDATES)

    def on_activations(self, obs: Activations) -> Iterator[Finding]:
        """Compare the share of dead units of each rectifier."""
        for call in obs.nonlinear:
            if call.dead_looks == 1 and call.dead_share >= self.share:
                self._born.add(call.place)
            enough = call.dead_looks >= self.looks and call.dead_samples >= self.samples
            penalty = call.head and not call.compared
            if call.kind != "relu" or not call.trained or penalty or not enough:
                continue
            least = self.share if call.units >= self.units else 1.0
            if call.dead_share >= least and call.dead_margin >= self.depth:
                message = (
                    f"{call.dead_share:.0%} of the units of {call.place} gave 0 for all"
                    f" {call.dead_samples} values seen in the last {call.dead_looks} batches."
                )
                self._killed = self._killed or call.place not in self._born
                yield self.finding(obs, message, where=call.place, share=call.dead_share)
