"""Numbers that the format of the run cannot hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import BREAKS_ALL, Check
from lightning_debug.finding import Finding
from lightning_debug.observation import NarrowParameter, Precision

# Steps that were too small for the format: fewer prove nothing about what becomes of them.
PROOF = 2.0
MOST_STRAYED = 0.2
KEPT = 0.5


@dataclass(kw_only=True)
class PrecisionUnderflow(Check):
    """Steps, gradients or eps are too small for 16 bits and become 0, or the scaler gives up.

    Why: bfloat16 has three digits and float16 ends at 6e-8. A step of less than half the distance
    to the next number leaves the weight where it was, for ever; a gradient below the smallest
    number is 0; Adam with eps=1e-8 in float16 divides by 0. Nothing raises an error.

    Steps are made again in 32 bits, from samples; gradients are computed again on a copy, with
    the loss multiplied.

    Silent when: enough elements move; something keeps what was lost (weights in 32 bits, Kahan
    summation) or rounds at random; the learning rate is rising, or has come down from where
    weights moved; a gradient scaler halves its scale now and then.

    Source: Micikevicius et al., Mixed Precision Training (2018).

    Args:
        share: Share of the elements of a weight matrix that a step does not move, in half of the
            matrices.
        error: Distance of a gradient from what it should be, relative to that.
        weights: Share of the weights whose gradient has such an error.
        smallest: Scale of the gradient scaler below which gradients are made smaller.
        refusals: Looks in a row at which that scale has fallen.
        start: Scale that scalers start with; one that starts higher may fall to it.
        patience: Looks in a row.
    """

    fix = "Keep the weights in 32 bits: Trainer(precision='bf16-mixed') instead of 'bf16-true'."

    share: float = 0.9
    error: float = 0.5
    weights: float = 0.25
    smallest: float = 1.0
    refusals: int = 12
    start: float = 2.0**16
    patience: int = 8
    _rates: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _moved: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _expected: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _strayed: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _refused: bool = field(default=False, init=False, repr=False)
    _scales: list[float] = field(default_factory=list, init=False, repr=False)
    _falls: int = field(default=0, init=False, repr=False)

    def causes(self) -> tuple[str, ...]:
        """Leave what is not finite on top where it is the reason why a scaler refuses steps."""
        return BREAKS_ALL if self._refused else self.symptom_of

    def on_precision(self, obs: Precision) -> Iterator[Finding]:
        """Look for what was lost in each way."""
        if not math.isnan(obs.scale):
            yield from self._scaled(obs)
        yield from self._flushed(obs)
        yield from self._divided(obs)
        yield from self._stepped(obs)

    def _divided(self, obs: Precision) -> Iterator[Finding]:
        """Look for steps that divide by an eps which is 0."""
        broken = {n: p for n, p in obs.parameters.items() if p.eps_lost and p.broken}
        if broken:
            name, first = next(iter(broken.items()))
            message = (
                f"eps={first.eps:g} of {obs.optimizer} is 0 in {first.dtype}, so its step divides"
                f" by 0: {len(broken)} parameters, first {name}, were finite before it and are"
                " not any more."
            )
            yield self.finding(
                obs,
                message,
                where=obs.optimizer,
                fix=(
                    "Trainer(precision='bf16-mixed'), or '16-mixed' with a GPU, keeps the weights"
                    " in 32 bits; if they must be float16, eps=1e-4."
                ),
                patience=1,
                eps=first.eps,
            )

    def _stepped(self, obs: Precision) -> Iterator[Finding]:
        """Look for steps that leave weights where they were."""
        groups: dict[int, dict[str, NarrowParameter]] = defaultdict(dict)
        for name, p in obs.parameters.items():
            if p.matrix and p.driven and not p.broken and p.lr:
                groups[p.group][name] = p
        for group, found in groups.items():
            where = f"{obs.optimizer}, group {group}" if len(groups) > 1 else obs.optimizer
            rate = next(iter(found.values())).lr
            for counts, key in ((self._expected, "expected"), (self._strayed, "strayed")):
                seen = sum(getattr(p, key) for p in found.values())
                counts[where] = counts.get(where, 0.0) + seen
            lost = median(p.lost / p.driven for p in found.values())
            rising = rate > self._rates.get(where, rate)
            self._rates[where] = rate
            if lost < self.share:
                self._moved[where] = max(rate, self._moved.get(where, 0.0))
            fallen = rate < self._moved.get(where, 0.0)
            step = median(p.step for p in found.values())
            spacing = median(p.spacing for p in found.values())
            small = lost >= self.share and step < spacing
            if not small or rising or fallen or self._saved(where, found):
                continue
            first = next(iter(found.values()))
            message = (
                f"{lost:.0%} of the sampled weights (median of {len(found)} matrices) stay what"
                f" they were in a step of {where}: it is {step:.1e} (rms) at a learning rate of"
                f" {rate:.3g}, and numbers in {first.dtype} of the size of these weights are"
                f" {spacing:.1e} apart."
            )
            yield self.finding(obs, message, where=where, lost=lost, step=step, spacing=spacing)

    def _saved(self, where: str, found: dict[str, NarrowParameter]) -> bool:
        """Tell whether what is too small to be seen adds up all the same."""
        expected = self._expected[where]
        random = expected < PROOF or self._strayed[where] > MOST_STRAYED * expected
        return random or median(p.kept for p in found.values()) < KEPT

    def _flushed(self, obs: Precision) -> Iterator[Finding]:
        """Look for gradients that are larger when the loss is multiplied, and divided again."""
        size = sum(g.numel for g in obs.flushed.values())
        wrong = {n: g for n, g in obs.flushed.items() if g.error > self.error and g.numel}
        if not wrong or sum(g.numel for g in wrong.values()) < self.weights * size:
            return
        name = max(wrong, key=lambda n: (wrong[n].error, wrong[n].zeros))
        worst = wrong[name]
        message = (
            f"Gradients are too small for float16: that of {name} is {worst.error:.0%} off what it"
            f" is when the loss is multiplied by {obs.factor:g}, and {worst.zeros:.0%} of its"
            f" elements have become 0; so it is in {len(wrong)} of"
            f" {sum(1 for g in obs.flushed.values() if g.numel)} weight matrices."
        )
        yield self.finding(
            obs,
            message,
            where="gradients",
            fix=(
                "Use bfloat16, Trainer(precision='bf16-mixed'), or scale the loss:"
                " precision='16-mixed' does, and torch.amp.GradScaler by hand."
            ),
            patience=1,
            error=worst.error,
            zeros=worst.zeros,
        )

    def _scaled(self, obs: Precision) -> Iterator[Finding]:
        """Look for a scale that falls and falls, or that makes gradients smaller."""
        before = self._scales[-1] if self._scales else math.nan
        self._scales = [*self._scales[:1], obs.scale]
        self._falls = self._falls + 1 if obs.scale < before else 0
        refuses = self._falls >= self.refusals and obs.scale < self.start
        if refuses or obs.scale < self.smallest:
            self._refused = True
            message = (
                f"The scale of the gradient scaler has fallen from {self._scales[0]:g} to"
                f" {obs.scale:g}: it refuses step after step, because gradients are not finite."
            )
            yield self.finding(
                obs,
                message,
                where="gradient scaler",
                fix=(
                    "Trainer(precision='bf16-mixed') needs no scaler. Or divide the loss (a mean"
                    " instead of a sum), and look for sqrt(0), log(0) and masks of -inf: NaN has"
                    " the scaler refuse a step at any scale."
                ),
                patience=1,
                scale=obs.scale,
            )
