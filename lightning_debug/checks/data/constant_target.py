"""Targets with nothing to learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Batch, Loader, LossTerms, RunStart


@dataclass(kw_only=True)
class ConstantTarget(Check):
    """All targets of all batches have one and the same value.

    Why: the loss falls to zero at once and everything looks fine, but the network has learned a
    constant. Typical reasons are a wrong column, a comparison that is never true, a cast to
    integers.

    Silent when: any target differs; the step makes the targets up itself (ones and zeros of a GAN,
    residuals, the positions of a contrastive loss); other terms of the loss are trained as well;
    few samples were seen, because a rare class may be missing among them, or only the first part
    of data that come in order.

    Args:
        looks: Fewest batches that have to agree.
        samples: Fewest samples in these batches.
        covered: Share of an epoch that they have to span, where the loader does not shuffle.
    """

    severity = Severity.ERROR
    symptom_of = ("constant-input",)
    fix = (
        "Print the targets of the dataset: torch.stack([torch.as_tensor(y) for _, y in"
        " dataset]).unique(). Look for a wrong column, a threshold that is never reached, an"
        " integer division."
    )

    looks: int = 10
    samples: int = 300
    covered: float = 0.9
    _loader: Loader = field(default_factory=Loader, init=False, repr=False)
    _value: float | None = field(default=None, init=False, repr=False)
    _varied: bool = field(default=False, init=False, repr=False)
    _several: bool = field(default=False, init=False, repr=False)
    _epoch: int = field(default=0, init=False, repr=False)
    _looks: int = field(default=0, init=False, repr=False)
    _samples: int = field(default=0, init=False, repr=False)

    def on_run_start(self, obs: RunStart) -> Iterator[Finding]:
        """Remember what the loader is."""
        self._loader = obs.loader
        yield from ()

    def on_loss_terms(self, obs: LossTerms) -> Iterator[Finding]:
        """Remember whether there is anything else to learn."""
        self._several = self._several or sum(term.trained for term in obs.terms) > 1
        yield from ()

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Compare the targets of all looks."""
        if not obs.targets or self._varied:
            return
        values = {value for call in obs.targets for value in (call.low, call.high)}
        if self._value is None:
            self._value, self._epoch = min(values), obs.epoch
        self._varied = values != {self._value}
        self._looks += 1
        self._samples += max((t.samples for t in obs.tensors if t.target), default=0)
        if self._varied or self._several:
            return
        whole = self._epoch != obs.epoch or obs.index + 1 >= self.covered * self._loader.batches > 0
        whole = whole or (self._loader.known and self._loader.order == "random")
        if whole and self._looks >= self.looks and self._samples >= self.samples:
            where = ", ".join(t.path for t in obs.tensors if t.target) or obs.targets[0].place
            message = (
                f"All targets ({where}) that were seen in {self._looks} batches with"
                f" {self._samples} samples are {self._value:.4g}."
            )
            yield self.finding(obs, message, where=where, samples=self._samples)
