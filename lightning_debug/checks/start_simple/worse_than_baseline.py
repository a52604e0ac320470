"""Models that do worse than the simplest ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import NO_WAY_BACK, NO_WAY_THROUGH, Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Baselines, SimpleModel


@dataclass(kw_only=True)
class WorseThanBaseline(Check):
    """A constant, a linear model or one hidden layer does better on the same batches.

    Why: what the inputs tell is lost on the way: a layer that is too narrow, a mean or slice over
    the wrong axis, a reshape where a transpose was meant, too much dropout or decay, layers that
    are not trained. A larger model only hides that.

    Silent when: a copy that is trained on with Adam catches up, unless a long run has learned next
    to nothing; the simple models find nothing either, or the model gains most of what they gain;
    the loss is more than a comparison of predictions with targets of the batch (weights, mixup,
    several terms, generative and adversarial models, reinforcement learning); the target is nearly
    the input.

    Source: Karpathy, A Recipe for Training Neural Networks (2019), "simple baselines".

    Args:
        updates: Fewest updates of the run.
        share: Of what the best simple model gains over a constant: a model that gains less, in
            score and in loss, is worse.
        gain: Fewest points of accuracy or explained variance that the simple model gains.
        stuck: The same share for a copy that was trained on with Adam.
        deviations: Standard errors by which differences have to be larger than chance.
        long: Updates of a long run.
        nothing: Share of that gain below which a long run has learned next to nothing.
        still: Fall of the loss in the last half of a long run, relative to its size, below which it
            does not get on.
        falling: Mann-Kendall score of that half below which it gets on, however slowly.
    """

    fix = (
        "Train one hidden layer in the place of the model, then put its layers back one by one and"
        " see where the score drops: look there for a mean, slice, view or softmax over the wrong"
        " axis, much dropout or weight decay, and frozen layers."
    )
    symptom_of = (
        "precision-underflow",
        "unregistered-module",
        "gradients-not-cleared",
        "accumulation-not-scaled",
        *NO_WAY_BACK,
        "wrong-gradient",
        "learning-rate-too-high",
        "update-too-large",
        "scheduler-misconfigured",
        "learning-rate-too-low",
        "update-too-small",
        "clipping-too-tight",
        *NO_WAY_THROUGH,
        "non-linearity-missing",
        "weight-init-scale",
        "ignores-input",
        "batch-mixing",
        "attention-mask",
        "dropout-misplaced",
        "batch-norm-small-batch",
        "input-not-normalized",
        "data-not-shuffled",
        "loss-task-mismatch",
        "not-log-probabilities",
        "probabilities-as-logits",
        "target-broadcast",
        "constant-loss-terms",
        "regularization-dominates",
        "non-finite-loss",
        "loss-diverging",
    )

    updates: int = 100
    share: float = 0.7
    stuck: float = 0.5
    gain: float = 0.1
    deviations: float = 4.0
    long: int = 200
    nothing: float = 0.1
    still: float = 0.01
    falling: float = -1.6

    def on_baselines(self, obs: Baselines) -> Iterator[Finding]:
        """Hold the model against the best simple one."""
        if obs.skipped or not obs.simple or obs.updates < self.updates:
            return
        constant = obs.simple[0]
        better = [s for s in obs.simple[1:] if s.loss < constant.loss]
        best = max(better, key=lambda simple: simple.score, default=constant)
        sure = best.score - obs.model.score > self.deviations * obs.error
        real = best.score - constant.score > max(self.gain, self.deviations * obs.gain_error)
        if not (sure and real and _gains_less(obs.model, constant, best, self.share)):
            return
        further = obs.further
        stuck = further is not None and _gains_less(further, constant, best, self.stuck)
        if stuck or self._idle(obs, constant, best):
            yield self._tell(obs, constant, best, stuck=stuck)

    def _idle(self, obs: Baselines, constant: SimpleModel, best: SimpleModel) -> bool:
        """Tell whether a long run has led nowhere, and does not get on."""
        nothing = _gains_less(obs.model, constant, best, self.nothing)
        stands = obs.fall < self.still and not obs.trend < self.falling and not obs.warming
        return obs.updates >= self.long and nothing and stands

    def _tell(
        self, obs: Baselines, constant: SimpleModel, best: SimpleModel, *, stuck: bool
    ) -> Finding:
        kind = "a linear model" if best.name == "linear" else best.name
        per = "" if obs.layout == "sample" else f" of each {obs.layout}"
        message = (
            f"After {obs.updates} updates the model predicts{per} with {obs.metric}"
            f" {obs.model.score:.2f}, on samples that it was trained on; {kind} that was trained no"
            f" longer, on some of the same batches, reaches {best.score:.2f} on samples that it has"
            f" not seen (a constant {constant.score:.2f})."
        )
        if stuck and obs.further is not None:
            message += (
                f" Trained on with Adam, a copy of the model gets to {obs.further.score:.2f}."
            )
        return self.finding(
            obs,
            message,
            where=obs.place,
            model=obs.model.score,
            baseline=best.score,
            constant=constant.score,
            samples=float(obs.samples),
        )


def _gains_less(model: SimpleModel, constant: SimpleModel, best: SimpleModel, share: float) -> bool:
    """Tell whether a model gains less than a share of what another gains over a constant."""
    score = constant.score + share * (best.score - constant.score)
    loss = constant.loss + share * (best.loss - constant.loss)
    return model.score < score and model.loss > loss
