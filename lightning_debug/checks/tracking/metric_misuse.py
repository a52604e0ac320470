"""Metrics that report something else than their name says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.naming import expression
from lightning_debug.observation import MetricPass, Threshold, Tracking

FIX_LARGEST = (
    "Compare the positions, logits.argmax(dim=1) == y: torch.max(logits, 1) returns the values"
    " first and the positions second."
)
FIX_EQUAL = (
    "Make classes first: logits.argmax(dim=1) == y, or of one logit for each sample"
    " (logits > 0) == y.bool()."
)


@dataclass(kw_only=True)
class MetricMisuse(Check):
    """A metric is never reset, averaged over batches, or made of predictions that are no classes.

    Why: the number that is reported, compared and stopped by is not the one of its name. A metric
    that is not reset mixes in all epochs before; the mean of an F1 or AUROC over batches is not
    the F1 or AUROC, whether an object gives them or a function (``torchmetrics.functional``,
    ``sklearn.metrics``); a probability of 0.5 is a logit of 0; logits and probabilities are never
    equal to a class.

    Silent when: the metric is reset by hand or by Lightning (log the object); only its value for
    the batch is used; it counts, or keeps the best of all epochs (one update each); the mean over
    batches is right to within the limits, or each batch is one sample; logits are compared with 0.

    Source: torchmetrics documentation, "TorchMetrics in PyTorch Lightning", common pitfalls.

    Args:
        difference: Smallest error of a mean over batches that is told.
        relative: The same, relative to the right value.
        threshold: How close to 0.5 a threshold on logits has to be, and to 0 one on
            probabilities.
    """

    fix = (
        'Log the metric object itself, self.log("val_f1", self.f1, on_epoch=True), one object a'
        " stage: Lightning then computes it over the whole epoch and resets it."
    )

    difference: float = 0.02
    relative: float = 0.02
    threshold: float = 1e-6
    _seen: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def on_tracking(self, obs: Tracking) -> Iterator[Finding]:
        """Compare what was logged with what the metric objects hold, and see how classes arise."""
        for use in obs.uses:
            yield from self._not_reset(obs, use)
            yield from self._averaged(obs, use)
        for made in obs.thresholds:
            yield from self._thresholds(obs, made)

    def _not_reset(self, obs: Tracking, use: MetricPass) -> Iterator[Finding]:
        # One update a pass: it keeps the best or the mean of all passes on purpose.
        often = use.before > 0 and use.updates - use.before > 1
        if not often or use.single:
            return
        name = _reported(obs, use)
        self._seen[use.place] = self._seen.get(use.place, 0) + bool(name)
        if name and (not use.values or self._seen[use.place] > 1):
            message = (
                f"{name} = {obs.metrics[name]:.4g} is the value of {use.place} ({use.kind}) over"
                f" {use.updates} batches, of which {use.before} are from before this pass over"
                f" the {'validation' if obs.stage == 'validation' else 'training'} data: it is not"
                " reset."
            )
            whole = expression(use.place)
            log = "" if use.values else f', or log the object: self.log("{name}", {whole})'
            fix = f"Call {whole}.reset() after compute(){log}. Use one object for each stage."
            yield self.finding(
                obs, message, where=use.place, fix=fix, before=use.before, updates=use.updates
            )

    def _averaged(self, obs: Tracking, use: MetricPass) -> Iterator[Finding]:
        # Means over single samples are a convention (PSNR, Dice of an image).
        if use.batches < 2 or use.batch_size < 2 or not math.isfinite(use.whole):
            return
        name = _logged(obs, use.batch_mean) or _logged(obs, use.weighted_mean)
        error = abs(obs.metrics[name] - use.whole) if name else 0.0
        if error > max(self.difference, self.relative * abs(use.whole)):
            message = (
                f"{name} = {obs.metrics[name]:.4g} is the mean of {use.kind} over"
                f" {use.batches} batches; over all of them together it is {use.whole:.4g}."
            )
            if use.function:
                fix = (
                    f"Use a metric object in place of {use.kind}: update() it in each batch, and"
                    f' self.log("{name}", the object). Or keep all predictions of the epoch, and'
                    f" call {use.kind} once, in on_validation_epoch_end."
                )
            else:
                fix = (
                    f'Log the object, self.log("{name}", {expression(use.place)}), or update() it'
                    " in each batch and compute() it once at the end of the epoch."
                )
            yield self.finding(
                obs, message, where=use.place, fix=fix, mean=obs.metrics[name], whole=use.whole
            )

    def _thresholds(self, obs: Tracking, made: Threshold) -> Iterator[Finding]:
        place = made.place
        if made.function == "eq":
            what = "logits" if made.logits else "probabilities"
            message = (
                f"The {'largest ' if made.largest else ''}{what} are compared with the classes by"
                f" ==. They are no classes{', their positions are' if made.largest else ''}, so"
                " the two are hardly ever equal."
            )
            fix = FIX_LARGEST if made.largest else FIX_EQUAL
        elif made.logits and abs(made.value - 0.5) <= self.threshold:
            how = "rounded" if made.function == "round" else f"compared with {made.value:g}"
            message = (
                f"The logits of the loss are {how} to make classes; a logit of 0.5 is a"
                " probability of 0.62, and a probability of 0.5 is a logit of 0."
            )
            fix = "Compare with 0, or use torch.sigmoid(logits) > 0.5."
        elif not made.logits and abs(made.value) <= self.threshold:
            message = (
                "Probabilities, torch.sigmoid(logits), are compared with 0 to make classes; they"
                " are always above it, so every sample gets the positive class."
            )
            fix = "Compare the probabilities with 0.5, or the logits with 0."
        else:
            return
        self._seen[place] = self._seen.get(place, 0) + 1
        if self._seen[place] > 1:
            yield self.finding(obs, message, where=place, fix=fix, threshold=made.value)


def _reported(obs: Tracking, use: MetricPass) -> str:
    """Return the name under which a value of a metric was logged; empty if none.

    Of several values their mean, or all of them: shares of few samples are often the same.
    """
    parts = {value for value in use.values if math.isfinite(value)}
    mean = sum(use.values) / len(use.values) if use.values else use.value
    whole = "" if mean in (0.0, 1.0) else _logged(obs, mean)
    names = [_logged(obs, value) for value in sorted(parts - {0.0, 1.0})]
    return whole or (min(names) if len(names) > 1 and all(names) else "")


def _logged(obs: Tracking, value: float) -> str:
    """Return the name under which a value was logged; empty if none."""
    if not math.isfinite(value):
        return ""
    same = (n for n, v in obs.metrics.items() if math.isclose(v, value, rel_tol=1e-5))
    return next(same, "")
