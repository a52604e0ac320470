"""What is seen of validation, and of the metrics that are logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch.nn import Module

from lightning_debug.observation import (
    BatchNorms,
    Dropouts,
    MetricPass,
    Modes,
    Observation,
    Threshold,
    Tracking,
    Validation,
    Watcher,
)
from lightning_debug.session import Session
from lightning_debug.taps.batch_norms import BatchNormTap, EvaluatedNormTap
from lightning_debug.taps.data import ValidationPrintTap
from lightning_debug.taps.dropouts import EvaluatedDropoutTap, Probabilities
from lightning_debug.taps.eager import Eagerly
from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.metric_functions import MetricFunctionTap
from lightning_debug.taps.metrics import MetricTap, read
from lightning_debug.taps.modes import ModeTap, ModuleEars
from lightning_debug.taps.random_masks import RandomMaskTap
from lightning_debug.taps.random_noise import RandomNoiseTap
from lightning_debug.taps.thresholds import ThresholdTap
from lightning_debug.taps.trace import Trace

LISTENED_VALIDATIONS = 3
LISTENED_BATCHES = 2
MOST_THRESHOLDS = 64


class ValidationObserver:
    """Watches the validation data and the metrics of a model, while it is trained.

    Args:
        model: The module that is trained.
        session: Gets the observations.
        norms: Knows how batch norms were when training started.
        probabilities: Told when validation runs, to see what it changes.
        alone: Whether this is the only process of the run.
    """

    def __init__(
        self,
        model: Module,
        session: Session,
        norms: BatchNormTap,
        probabilities: Probabilities,
        *,
        alone: bool = True,
    ) -> None:
        def failed(error: Exception) -> None:
            session.contain.fail("the tap on metrics", error)

        self._session = session
        self._contain = session.contain
        self._alone = alone
        self._prints = ValidationPrintTap()
        self._metrics = MetricTap(model, failed)
        self._scores = MetricFunctionTap(model, failed)
        self._compared = ThresholdTap(Trace({}), "validation_step")
        self._model = model
        self._trace = Trace({})
        self._modes = ModeTap(self._trace, model, mode=True)
        self._dropouts = EvaluatedDropoutTap(self._trace, model, lambda: self._modes.passes)
        self._norms = EvaluatedNormTap(self._trace, norms)
        self._probabilities = probabilities
        self._masks = RandomMaskTap(self._trace, self._dropouts.found)
        self._noise = RandomNoiseTap(self._trace, self._dropouts.noisy)
        heard = [self._compared, self._modes, self._dropouts, self._masks, self._norms]
        heard.append(self._noise)
        self._functions = FunctionTap(self._trace, heard, failed)
        self._modules = ModuleEars(self._trace, self._modes, failed)
        self._ears = ExitStack()
        self._thresholds: list[Threshold] = []
        self._passes = 0

    def epoch_start(self) -> None:
        """See the metrics as they are when an epoch of training begins, at its first batch."""
        if self._tracks:
            with self._contain("the tap on metrics"):
                self._metrics.begin("training", watch=False)

    def start(self) -> None:
        """Remember what validation must leave alone; before the user's hooks run."""
        if self._passes < LISTENED_VALIDATIONS and self._session.wants(Dropouts):
            with self._contain("the tap on dropouts"):
                self._probabilities.begin()

    def batch_start(self, batch: Any, index: int, loader: int) -> None:
        """See a batch of validation data: its number in its loader, and the loader's."""
        first = index == 0 and loader == 0
        if self._session.wants(Validation) and self._contain.works("the tap on the batch"):
            with self._contain("the tap on the batch"):
                if first:
                    self._prints.begin()
                self._prints.batch(batch, index, loader)
        if not (self._tracks or self._listens):
            return
        with self._contain("the tap on metrics"):
            if first:
                self._passes += 1
                self._modes.begin(wanted=self._few and self._listens)
                self._dropouts.begin()
                self._norms.begin()
            if self._tracks:
                if first:
                    self._metrics.begin("validation", watch=self._alone)
                    self._scores.begin()
                self._metrics.batch(batch)
            if self._few and index < LISTENED_BATCHES and loader == 0:
                self._listen()
                self._noise.begin(batch)
            if self._tracks and self._alone:
                self._scores.batch(batch)

    def batch_end(self) -> None:
        """Close the tap on the functions of a validation batch."""
        self._scores.pause()
        with self._contain("the tap on metrics"):
            self._noise.batch_end()
            self._dropouts.batch_end()
            self._masks.next_batch()
            if self._few and self._session.wants(Dropouts):
                self._probabilities.end()
        self._deafen()
        with self._contain("the tap on metrics"):
            self.note(self._compared.take())

    def note(self, thresholds: Iterable[Threshold]) -> None:
        """Take in how classes were made of a prediction."""
        self._thresholds = [*self._thresholds, *thresholds][:MOST_THRESHOLDS]

    def end(
        self, step: int, epoch: int, loss: float, losses: tuple[tuple[int, float], ...]
    ) -> None:
        """Observe a pass: its mean loss, and the training losses since the last look."""
        self._show(
            Validation(
                step=step, epoch=epoch, loss=loss, losses=losses, prints=self._prints.prints()
            )
        )
        if self._few:
            self._show(
                Modes(step=step, epoch=epoch, stage="validation", parts=self._modes.parts(set()))
            )
            with self._contain("the tap on metrics"):
                self._show(self._dropouts.observation(step, epoch))
                self._show(self._norms.observation(step, epoch))

    def track(
        self,
        step: int,
        epoch: int,
        stage: str,
        *,
        metrics: Mapping[str, Any],
        watchers: Sequence[Watcher],
        complete: bool,
    ) -> None:
        """Observe what has been logged and what watches it.

        Args:
            step: Optimizer updates made so far.
            epoch: Epoch, counted from 0.
            stage: What has ended: ``"validation"``, ``"training"`` or ``"run"``.
            metrics: What has been logged.
            watchers: What decides by a metric.
            complete: Whether all that is logged has been logged at least once.
        """
        if not self._session.wants(Tracking):
            return
        uses: tuple[MetricPass, ...] = ()
        if self._tracks:
            with self._contain("the tap on metrics"):
                uses = self._metrics.end(stage) if self._alone else ()
                uses += self._scores.end() if stage == "validation" else ()
        with self._contain("the logged metrics"):
            made, self._thresholds = tuple(self._thresholds), []
            # Read where a pass has ended that reports them; elsewhere the names are enough.
            needed = stage == "validation" or any(
                use.values or math.isfinite(use.value) for use in uses
            )
            self._show(
                Tracking(
                    step=step,
                    epoch=epoch,
                    stage=stage,
                    metrics=read(metrics) if needed else dict.fromkeys(metrics, math.nan),
                    watchers=tuple(watchers),
                    uses=uses,
                    thresholds=made,
                    complete=complete,
                )
            )

    def close(self) -> None:
        """Take off what is attached, whatever state it is in."""
        self._metrics.pause()
        self._scores.pause()
        self._deafen()

    @property
    def _tracks(self) -> bool:
        return self._session.wants(Tracking) and self._contain.works("the tap on metrics")

    @property
    def _listens(self) -> bool:
        kinds = (Modes, Dropouts, BatchNorms)
        return any(map(self._session.wants, kinds)) and self._contain.works("the tap on metrics")

    @property
    def _few(self) -> bool:
        return self._passes <= LISTENED_VALIDATIONS

    def _listen(self) -> None:
        self._compared.begin()
        self._modes.next_batch()
        self._trace.paths = {id(module): path for path, module in self._model.named_modules()}
        self._modules.open()
        self._ears.callback(self._modules.close)
        self._ears.enter_context(self._functions)
        self._functions.listening = True
        self._ears.enter_context(Eagerly())

    def _deafen(self) -> None:
        self._functions.listening = False
        self._ears.close()

    def _show(self, obs: Observation) -> None:
        if self._session.wants(type(obs)):
            self._session.observe(obs)
