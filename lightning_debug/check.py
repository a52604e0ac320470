"""The base class of every check: one question about a run."""

from __future__ import annotations

import functools
import inspect
import re
from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import (
    Activations,
    Backward,
    Baselines,
    Batch,
    BatchMixing,
    BatchNorms,
    Clipping,
    Connections,
    DataFlow,
    Dropouts,
    FutureLeak,
    Glance,
    GradientCheck,
    GradientNoise,
    Gradients,
    InputUse,
    KeptGraphs,
    LossCalls,
    Losses,
    LossTerms,
    ModeGap,
    Modes,
    NonFiniteBirth,
    Observation,
    Overfit,
    PaddingUse,
    Plan,
    Precision,
    Ranks,
    RateTrial,
    RunEnd,
    RunStart,
    Schedules,
    ShuffledLabels,
    StepRepeat,
    StepResponse,
    Tracking,
    Updates,
    Validation,
)

# After the first value that is not finite, every number of the run means little.
BREAKS_ALL = ("non-finite-activation", "non-finite-gradient", "non-finite-loss")
# What was so before the first update was not done by updates.
BY_UPDATES = ("learning-rate-too-high", "update-too-large", "exploding-gradient")

# What keeps gradients from the weights, and what keeps values from the output.
NO_WAY_BACK = (
    "no-gradient",
    "parameter-not-optimized",
    "weights-not-updated",
    "zero-gradient",
    "vanishing-gradient",
    "exploding-gradient",
)
NO_WAY_THROUGH = ("dead-relu", "saturated-activation", "activation-collapse", "symmetric-init")


# Abstract, so that a configuration file may name a check by its class.
@dataclass(kw_only=True)
class Check(ABC):
    """One question about a run.

    A subclass asks its question in its docstring, keeps its thresholds as fields and answers in
    the ``on_*`` methods that it overrides: a finding for each place where the answer is yes. It
    says what is true of the observation it is shown; the session decides when that is worth
    telling, after ``patience`` observations in a row, and groups equal findings of many places.

    Class attributes:
        fix: What to type, from cheapest to dearest.
        severity: How bad it is.
        symptom_of: Names of findings that explain this one where they are there too.
    """

    fix: ClassVar[str]
    severity: ClassVar[Severity] = Severity.WARNING
    symptom_of: ClassVar[tuple[str, ...]] = ()

    patience: int = 1

    def __post_init__(self) -> None:
        """Refuse thresholds that cannot be meant."""
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"patience={self.patience!r} must be a whole number of at least 1")

    @classmethod
    @functools.cache  # asked at every look
    def name(cls) -> str:
        """Return the public name: ``DeadRelu`` -> ``"dead-relu"``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def section(cls) -> str:
        """Return the section of the checklist: the folder that the check lies in."""
        return cls.__module__.rpartition(".")[0].rpartition(".")[2] or "own"

    @classmethod
    def why(cls) -> str:
        """Return the ``Why:`` paragraph of the docstring."""
        paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
        text = next((p for p in paragraphs if p.startswith("Why:")), "")
        return " ".join(text.removeprefix("Why:").split())

    def causes(self) -> tuple[str, ...]:
        """Return the findings that may explain this one, as far as the run has shown."""
        return self.symptom_of

    def on_run_start(self, obs: RunStart) -> Iterable[Finding]:
        """Answer from the state before the first step."""
        return ()

    def on_plan(self, obs: Plan) -> Iterable[Finding]:
        """Answer from what the run is set up to do."""
        return ()

    def on_schedules(self, obs: Schedules) -> Iterable[Finding]:
        """Answer from what schedulers make of the learning rates."""
        return ()

    def on_gradient_check(self, obs: GradientCheck) -> Iterable[Finding]:
        """Answer from gradients compared with finite differences."""
        return ()

    def on_batch_mixing(self, obs: BatchMixing) -> Iterable[Finding]:
        """Answer from what changed when another sample was changed."""
        return ()

    def on_future_leak(self, obs: FutureLeak) -> Iterable[Finding]:
        """Answer from what changed when the future was changed."""
        return ()

    def on_padding_use(self, obs: PaddingUse) -> Iterable[Finding]:
        """Answer from what changed when padding was taken away."""
        return ()

    def on_input_use(self, obs: InputUse) -> Iterable[Finding]:
        """Answer from what changed when an input was changed."""
        return ()

    def on_mode_gap(self, obs: ModeGap) -> Iterable[Finding]:
        """Answer from one batch in train mode and in eval mode."""
        return ()

    def on_gradient_noise(self, obs: GradientNoise) -> Iterable[Finding]:
        """Answer from how much the gradient differs between samples."""
        return ()

    def on_step_repeat(self, obs: StepRepeat) -> Iterable[Finding]:
        """Answer from one step made twice."""
        return ()

    def on_overfit(self, obs: Overfit) -> Iterable[Finding]:
        """Answer from a copy trained on one or two samples."""
        return ()

    def on_rate_trial(self, obs: RateTrial) -> Iterable[Finding]:
        """Answer from what other learning rates would have done."""
        return ()

    def on_non_finite_birth(self, obs: NonFiniteBirth) -> Iterable[Finding]:
        """Answer from the operation that made the first value that is not finite."""
        return ()

    def on_batch(self, obs: Batch) -> Iterable[Finding]:
        """Answer from a batch of training data."""
        return ()

    def on_activations(self, obs: Activations) -> Iterable[Finding]:
        """Answer from what the modules produced."""
        return ()

    def on_loss_calls(self, obs: LossCalls) -> Iterable[Finding]:
        """Answer from the loss functions that were called."""
        return ()

    def on_loss_terms(self, obs: LossTerms) -> Iterable[Finding]:
        """Answer from the summands of the loss."""
        return ()

    def on_data_flow(self, obs: DataFlow) -> Iterable[Finding]:
        """Answer from which layer fed which."""
        return ()

    def on_losses(self, obs: Losses) -> Iterable[Finding]:
        """Answer from the losses since the last look."""
        return ()

    def on_backward(self, obs: Backward) -> Iterable[Finding]:
        """Answer from the gradients of the activations."""
        return ()

    def on_connections(self, obs: Connections) -> Iterable[Finding]:
        """Answer from how the parts of the model are wired together."""
        return ()

    def on_gradients(self, obs: Gradients) -> Iterable[Finding]:
        """Answer from the gradients that an optimizer is about to use."""
        return ()

    def on_clipping(self, obs: Clipping) -> Iterable[Finding]:
        """Answer from what clipping made of the gradients."""
        return ()

    def on_precision(self, obs: Precision) -> Iterable[Finding]:
        """Answer from what the number format could not hold."""
        return ()

    def on_updates(self, obs: Updates) -> Iterable[Finding]:
        """Answer from what an optimizer step did."""
        return ()

    def on_glance(self, obs: Glance) -> Iterable[Finding]:
        """Answer from the norms of a step between two whole looks."""
        return ()

    def on_step_response(self, obs: StepResponse) -> Iterable[Finding]:
        """Answer from how the loss answered to a step."""
        return ()

    def on_batch_norms(self, obs: BatchNorms) -> Iterable[Finding]:
        """Answer from what batch norms normalise over."""
        return ()

    def on_dropouts(self, obs: Dropouts) -> Iterable[Finding]:
        """Answer from where values are dropped."""
        return ()

    def on_modes(self, obs: Modes) -> Iterable[Finding]:
        """Answer from the modes in which modules ran."""
        return ()

    def on_validation(self, obs: Validation) -> Iterable[Finding]:
        """Answer from a pass over the validation data."""
        return ()

    def on_tracking(self, obs: Tracking) -> Iterable[Finding]:
        """Answer from what is logged and watched."""
        return ()

    def on_ranks(self, obs: Ranks) -> Iterable[Finding]:
        """Answer from how the processes that train together agree."""
        return ()

    def on_kept_graphs(self, obs: KeptGraphs) -> Iterable[Finding]:
        """Answer from the graphs of earlier steps that are still in memory."""
        return ()

    def on_baselines(self, obs: Baselines) -> Iterable[Finding]:
        """Answer from simple models beside the one that is trained."""
        return ()

    def on_shuffled_labels(self, obs: ShuffledLabels) -> Iterable[Finding]:
        """Answer from a copy trained with shuffled labels."""
        return ()

    def on_run_end(self, obs: RunEnd) -> Iterable[Finding]:
        """Answer from the whole run."""
        return ()

    def finding(
        self,
        obs: Observation,
        message: str,
        *,
        where: str = "",
        severity: Severity | None = None,
        fix: str = "",
        patience: int = 0,
        **evidence: float | str,
    ) -> Finding:
        """Build a finding of this check at one place; ``patience`` overrides the check's own."""
        return Finding(
            name=self.name(),
            severity=severity or self.severity,
            message=message,
            where=where,
            places=(where,) if where else (),
            why=self.why(),
            fix=fix or self.fix,
            step=obs.step,
            epoch=obs.epoch,
            evidence=evidence,
            patience=patience,
        )


def merge(findings: list[Finding], shown: int = 6) -> Finding:
    """Make one finding of the findings of one check; the first speaks for all of them."""
    first, *rest = findings
    places = tuple(dict.fromkeys(f.where for f in findings if f.where))
    where = ", ".join(places[:shown])
    if len(places) > shown:
        where += f" and {len(places) - shown} more"
    message = first.message
    if rest and len(places) > 1:
        others = [place for place in places if place != first.where]
        listed = ", ".join(others[: shown - 1])
        more = f" and {len(others) - shown + 1} more" if len(others) > shown - 1 else ""
        message += f" The same holds for {listed}{more}."
    return replace(first, where=where, places=places, message=message)
