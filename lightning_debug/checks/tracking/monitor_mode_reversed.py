"""Checkpoints, early stops and schedulers that watch the wrong way, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.curve import correlation
from lightning_debug.finding import Finding
from lightning_debug.naming import better
from lightning_debug.observation import Tracking, Validation, Watcher

OPPOSITE = {"min": "max", "max": "min"}
WORDS = {"min": "lower", "max": "higher"}


@dataclass(kw_only=True)
class MonitorModeReversed(Check):
    """A checkpoint, early stop or scheduler watches a metric the wrong way, or one never logged.

    Why: with mode="min", the default, ModelCheckpoint(monitor="val_acc") keeps the worst weights
    and says nothing, EarlyStopping stops as soon as the accuracy rises, and ReduceLROnPlateau
    lowers the learning rate while all is well. A metric that is never logged guards nothing.

    Silent when: neither the metric object, nor its curve, nor its name says which way is better;
    the name says that the sign is turned (neg_loss); its curve contradicts its name; nothing is
    kept (save_top_k=0) or monitored (monitor=None).

    Args:
        follows: Correlation with the validation loss from which a metric is taken to be as good
            low, or as good high, as the loss.
        points: Validations after which a name is believed that its curve does not contradict, or
            the end of the run.
    """

    fix = "Set mode to the other value."

    follows: float = 0.9
    points: int = 3
    _loss: list[float] = field(default_factory=list, init=False, repr=False)
    _curves: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False)
    _objects: dict[str, set[bool]] = field(default_factory=dict, init=False, repr=False)
    _pending: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def on_validation(self, obs: Validation) -> Iterator[Finding]:
        """Remember how the metrics go with the validation loss."""
        if math.isfinite(obs.loss) and len(self._loss) < 200:
            self._loss.append(obs.loss)
            for name, value in self._pending.items():
                self._curves.setdefault(name, []).append(value)
        yield from ()

    def on_tracking(self, obs: Tracking) -> Iterator[Finding]:
        """Compare what is watched with what is logged."""
        monitors = {watcher.monitor for watcher in obs.watchers}
        if obs.stage == "validation":
            self._pending = {name: v for name, v in obs.metrics.items() if name in monitors}
        self._recognise(obs, monitors)
        for watcher in obs.watchers:
            if watcher.monitor not in obs.metrics:
                if obs.complete and obs.metrics:
                    yield self._missing(obs, watcher)
                continue
            right, reason = self._better(watcher.monitor, obs.stage)
            if right and right != watcher.mode:
                message = (
                    f"{watcher.name}(monitor={watcher.monitor!r}) has mode={watcher.mode!r}, but"
                    f" {reason}, so it takes the worst for the best."
                )
                fix = f'Write {watcher.name}(monitor="{watcher.monitor}", mode="{right}").'
                yield self.finding(
                    obs, message, where=watcher.name, fix=fix, monitor=watcher.monitor
                )

    def _recognise(self, obs: Tracking, monitors: set[str]) -> None:
        """Find the metric objects whose value was logged under a watched name."""
        for name in monitors & obs.metrics.keys():
            value = obs.metrics[name]
            for use in obs.uses:
                same = math.isclose(use.whole, value, rel_tol=1e-6, abs_tol=1e-9)
                if same and use.higher_is_better is not None and value not in (0.0, 1.0):
                    self._objects.setdefault(name, set()).add(use.higher_is_better)

    def _better(self, name: str, stage: str) -> tuple[str, str]:
        """Return which way is better, and how that is known; nothing where it is not."""
        objects, named = self._objects.get(name, set()), better(name)
        if len(objects) == 1:
            told = "max" if True in objects else "min"
            if named == OPPOSITE[told]:
                return "", ""
            return told, f"its metric object says that {WORDS[told]} is better"
        curve = self._curves.get(name, [])
        compared = 0 < len(curve) == len(self._loss)
        enough = len(curve) >= self.points
        follows = correlation(curve, self._loss) if compared and enough else 0.0
        shown = "min" if follows > 0 else "max"
        contradicted = abs(follows) >= self.follows and shown != named
        # While a pass over the validation data is shown, its loss is still to come.
        alone = not compared and stage != "validation"
        if named and not contradicted and (enough or alone or stage == "run"):
            return named, f"{WORDS[named]} is better for what the name says"
        same = (math.isclose(a, b, rel_tol=1e-5) for a, b in zip(curve, self._loss, strict=False))
        if not named and compared and len(curve) > 1 and all(same):
            return "min", "it is the validation loss"
        return "", ""

    def _missing(self, obs: Tracking, watcher: Watcher) -> Finding:
        logged = ", ".join(repr(name) for name in sorted(obs.metrics)[:8]) or "nothing"
        message = (
            f"{watcher.name}(monitor={watcher.monitor!r}) watches a metric that is never logged;"
            f" logged are {logged}."
        )
        fix = (
            f'Log it: self.log("{watcher.monitor}", value) in validation_step, or set monitor to'
            " one of the names that are logged."
        )
        return self.finding(obs, message, where=watcher.name, fix=fix, monitor=watcher.monitor)
