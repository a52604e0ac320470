"""The callbacks: the only place that knows Lightning, and so WHEN something happens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from lightning_debug import probing, registry, resumption, together, trainers
from lightning_debug.callback import Callback
from lightning_debug.check import Check
from lightning_debug.containment import Containment
from lightning_debug.experiment import Experiment
from lightning_debug.experiments.probes import Made
from lightning_debug.finding import Finding, Severity, TrainingBugError
from lightning_debug.homecoming import Homecoming, Returned
from lightning_debug.observation import Overfit, Validation
from lightning_debug.observer import Observer
from lightning_debug.report.sink import HtmlReport
from lightning_debug.resumption import Earlier
from lightning_debug.schedule import Schedule
from lightning_debug.session import Session
from lightning_debug.sinks.console import Console
from lightning_debug.sinks.loggers import Loggers
from lightning_debug.sinks.mail import Mailbox, Mailer
from lightning_debug.sinks.run_folder import RunFolder, new_folder
from lightning_debug.sinks.sink import RunInfo, Sink
from lightning_debug.taps import loaders
from lightning_debug.taps.dropouts import Probabilities
from lightning_debug.taps.processes import Processes
from lightning_debug.taps.ranks import RankTap
from lightning_debug.taps.ties import Groups, tied
from lightning_debug.taps.validation import ValidationTap
from lightning_debug.tracking import machine, record

Strict = bool | Literal["error", "warning"]
RECORD = "the run record"


class Section(Callback):
    """A set of checks as a Lightning callback.

    Several of them in one Trainer share one observer: the first drives it for all, with the
    checks and sinks of all and the shortest of their intervals.

    Args:
        debug: The one flag. False: nothing is attached and nothing is measured.
        checks: Checks with thresholds of your own, such as ``DeadRelu(share=0.5)``; they
            replace the ones of the same name.
        select: Look only for these: finding names (``"dead-relu"``), sections
            (``"connections"``), either with a glob on the place (``"dead-relu:encoder.*"``).
        ignore: Do not look for these; written like ``select``.
        every_n_steps: Longest interval between two looks, in optimizer updates. The first ten
            updates are all looked at, then intervals grow. None: 50, and longer where looks would
            take more than 1.5 % of the time. Less than 20: whole looks every 20, and glances at
            gradients, updates and the loss between them.
        strict: Raise :class:`TrainingBugError` for errors (True or ``"error"``) or for
            warnings as well (``"warning"``): at the end of the batch in which one is found, and
            at the end of training. For tests and CI.
        preflight: Make experiments on copies of the model, which leave no trace in the run.
            ``"auto"``: those that take a few steps of a copy, before the first update and after
            about fifty; and trainings of a copy, such as on two samples until it knows them by
            heart, for at most six seconds or 2 % of the time that the run will take. True: for
            at most a minute each. A number: for at most so many seconds each. False: none. They
            are left out where a copy does not fit into memory or no process has the whole model.
        sinks: Where findings go instead of the console, the trainer's loggers and the run folder.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name matches no finding or section, or a value is out of range.
    """

    # The findings of a section; None for all.
    names: ClassVar[tuple[str, ...] | None] = None
    # Whether it wants pictures of the network.
    draws: ClassVar[bool] = False
    # Whether it wants all recorded that a run can be compared by.
    tracks: ClassVar[bool] = False

    def __init__(
        self,
        debug: bool = True,
        *,
        checks: Sequence[Check] = (),
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        every_n_steps: int | None = None,
        strict: Strict = False,
        preflight: probing.Preflight = "auto",
        sinks: Sequence[Sink] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(debug, (bool, int)):
            raise TypeError(f"debug={debug!r} must be True or False")
        if strict not in (True, False, "error", "warning"):
            raise ValueError(f"strict={strict!r} must be True, False, 'error' or 'warning'")
        for sink in sinks or ():
            if not isinstance(sink, Sink):
                raise TypeError(f"sinks: {sink!r} is not a Sink instance")
        Schedule(every_n_steps)  # refuses a bad interval now, not when training starts
        self.debug = bool(debug)
        self.every_n_steps = every_n_steps
        self.select = registry.validate(select, "select")
        self.ignore = registry.validate(ignore, "ignore")
        self.checks = registry.choose(self.names, checks, self.select, self.ignore)
        self._own = {check.name() for check in checks}
        self._level = _level(strict)
        self.preflight = preflight
        self._budget = probing.budget(preflight)
        self._sinks = None if sinks is None else tuple(sinks)
        self.from_environment = False
        self.announces = False
        self._session: Session | None = None
        self._ties: Groups = frozenset()
        self._probabilities: Probabilities | None = None
        self._observer: Observer | None = None
        self._findings: list[Finding] = []
        self._made: list[Made] = []
        self._experiments: list[Experiment] = []
        self._held_out: Any = None
        self._loss: Tensor | None = None
        self._validation: ValidationTap | None = None
        self._later: record.Later | None = None
        self._first_epoch = 0
        self._started = self._validated = False
        self._saved: object = None
        self._processes: Processes | None = None
        self._homecoming = Homecoming()
        self._failures: Mapping[str, str] = {}
        self.run_folder: Path | None = None

    @property
    def findings(self) -> list[Finding]:
        """Return what this callback's checks have found in the last run, worst first.

        Symptoms follow the finding that explains them and name it in ``caused_by``.
        """
        self._return()
        found = self._session.findings if self._session else self._findings
        mine = {check.name() for check in self.checks}
        return [finding for finding in found if finding.name in mine]

    @property
    def experiments(self) -> list[Experiment]:
        """Return the experiments on copies of the model in the last run, and what came of them."""
        self._return()
        session = self._session
        if session is None:
            return self._experiments
        mine = {check.name() for check in self.checks}
        return [probing.told(made, session, mine) for made in self._made]

    @property
    def failures(self) -> dict[str, str]:
        """Return the parts of the debugger that failed in the last run, with their errors."""
        self._return()
        return dict(self._session.contain.failures) if self._session else dict(self._failures)

    def give_time(self, seconds: float | None) -> None:
        """Give experiments so many seconds each, or their full time, and show which is made."""
        self._budget = probing.budget(True if seconds is None else seconds)
        self.announces = True

    def __getstate__(self) -> dict[str, Any]:
        """Leave the live parts behind: a pickle or a copy knows the findings, not the run."""
        live = (
            *("_session", "_observer", "_loss", "_validation", "_probabilities", "_held_out"),
            *("_later", "_saved", "_processes"),
        )
        seen = {
            "_findings": self.findings,
            "_failures": self.failures,
            "_experiments": self.experiments,
            "_made": [],
        }
        return self.__dict__ | dict.fromkeys(live) | seen

    def __repr__(self) -> str:
        """Say what it is and what it found."""
        state = f"debug={self.debug}, findings={[f.name for f in self.findings]}"
        return f"{type(self).__name__}({state})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        # What draws it is loaded now: a training does not wait for it.
        from lightning_debug.report.notebook import fragment
        from lightning_debug.report.page import REPORT

        report = self.run_folder / REPORT if self.run_folder else None
        return fragment(
            type(self).__name__,
            self.findings,
            self.experiments,
            failures=self.failures,
            report=report if report and report.is_file() else None,
            state=self._missing_run(),
        )

    def _missing_run(self) -> str:
        """Return why there is no run to tell of; empty where there is one."""
        if not self.debug:
            return "switched off (debug=False)"
        told = self._session or self._findings or self._experiments
        return "" if told or self.run_folder else "no run yet"

    def _return(self) -> None:
        """Take what a run in another process has left, as after a spawn."""
        if self._session is None and (returned := self._homecoming.take()) is not None:
            self._findings, self._failures = returned.findings, returned.failures
            self._experiments = returned.experiments
            self.run_folder = returned.folder

    # -- when: what Lightning tells us ------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember which weights are tied, before anything is moved, wrapped or restored."""
        with contextlib.suppress(Exception):  # there is no session yet that could contain it
            self._ties = tied(pl_module) if self.debug else frozenset()

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the chances that modules draw with; validation must leave them alone."""
        if self._session is not None:
            with self._session.contain("the tap on dropouts"):
                self._probabilities = Probabilities(pl_module)
                self._probabilities.begin()

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See which of them it has changed."""
        if self._session is not None and self._probabilities is not None:
            with self._session.contain("the tap on dropouts"):
                self._probabilities.end()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the session, if this callback drives it."""
        self._finish("interrupted")
        self._started = False
        sections = _active(trainer)
        if not sections or sections[0] is not self:
            return
        together.join(self)
        contain = Containment()
        with contain(RankTap.name):
            self._processes = Processes.join()
        sinks = _sinks(sections, trainer, self._processes)
        # log_dir asks all ranks, so it is read on all of them.
        folder = trainers.log_dir(trainer)
        session = Session(
            _checks(sections),
            sinks,
            select=[pattern for s in sections for pattern in s.select],
            ignore=[pattern for s in sections for pattern in s.ignore if ":" in pattern],
            contain=contain,
            draws=any(section.draws for section in sections),
            others=_others(trainer, self._processes),
            experiments=lambda session: [probing.told(made, session) for made in self._made],
        )
        for section in sections:
            section._session = session
        with session.contain("the run folder"):
            if any(isinstance(sink, RunFolder) for sink in sinks) and not trainers.dry(trainer):
                self.run_folder = new_folder(folder)
        tracks = trainer.is_global_zero and bool(sinks) and any(s.tracks for s in sections)
        described: dict[str, Any] = {}
        if trainer.is_global_zero and sinks:
            with session.contain(RECORD):
                described = _described(trainer, pl_module, whole=tracks)
        with session.contain("the start of the session"):
            session.start(
                RunInfo(
                    folder=str(self.run_folder) if self.run_folder else None,
                    loggers=list(trainer.loggers),
                    write=trainers.writer(trainer),
                    record=described,
                )
            )
        if tracks:
            with session.contain(RECORD):
                self._later = record.Later()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to observe: weights are restored, optimizers are built, checks of data are over."""
        session = self._session
        if session is None or _active(trainer)[:1] != [self]:
            return
        sections = _active(trainer)
        self._started = True
        session.resume(self._earlier(trainer))
        if self._later is not None:
            with session.contain(RECORD):
                loaded = trainer.train_dataloader, trainer.val_dataloaders
                session.record(self._later.begin(pl_module, *loaded))
        # Not in the observer: the mean is taken over all ranks, also where the observer failed.
        self._validation = ValidationTap() if session.wants(Validation) else None
        probes = None
        budgets = [s._budget for s in sections]
        if all(budgets):
            with session.contain("the experiments on a copy"):
                budget = min((b for b in budgets if b), key=lambda b: b.trainings)
                announce = probing.announcer(session) if _announces(sections) else None
                probes = probing.probes(
                    trainer,
                    pl_module,
                    budget,
                    validation=self._held_out,
                    announce=announce,
                    processes=self._processes,
                )
        self._held_out = None
        for section in sections:
            section._made = probes.made if probes else []
        with session.contain("the start of the observer"):
            observer = Observer(
                pl_module,
                trainer.optimizers,
                session,
                Schedule(min((s.every_n_steps for s in sections if s.every_n_steps), default=None)),
                scheduled=[c.scheduler.optimizer for c in trainer.lr_scheduler_configs],
                resumed=trainers.resumed(trainer),
                seeded=machine.seeded(),
                alone=trainer.world_size == 1,
                ranks=self._ranks(trainer, pl_module, session),
                ties=self._ties,
                probes=probes,
                plan=trainers.plan(trainer, pl_module),
                scaler=trainers.scaler(trainer),
                course=trainers.course(trainer),
                probabilities=self._probabilities,
                loader=loaders.describe(
                    trainer.train_dataloader,
                    trainer.val_dataloaders,
                    overfit=bool(getattr(trainer, "overfit_batches", 0)),
                ),
            )
            observer.start(trainer.global_step, trainer.current_epoch)
            self._observer = observer
            self._first_epoch, self._validated = trainer.current_epoch, False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at this batch, if it is time."""
        if self._later is not None and self._session is not None:
            with self._session.contain(RECORD):
                self._later.batch(batch)
        with self._watching() as observer:
            if observer:
                self._loss = None
                if batch_idx == 0:
                    observer.validation.epoch_start()
                observer.batch_start(
                    batch,
                    batch_idx,
                    self._step(trainer),
                    trainer.current_epoch,
                    updates=trainers.updates(trainer, pl_module, batch_idx),
                )

    def on_before_zero_grad(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Stop listening to the forward pass; Lightning clears gradients between the passes."""
        with self._watching() as observer:
            if observer:
                observer.forward_ends()

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Stop listening to the forward pass."""
        with self._watching() as observer:
            if observer:
                self._loss = loss.detach()
                observer.before_backward(loss, self._loss)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen again."""
        with self._watching() as observer:
            if observer:
                observer.after_backward()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Observe the gradients; Lightning has unscaled them by now, and not yet clipped them."""
        with self._watching() as observer:
            if observer:
                observer.before_optimizer_step(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the loss; after a look, hear what was found."""
        if self._later is not None:
            self._record_news()
        with self._watching() as observer:
            if observer:
                loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
                loss = loss if isinstance(loss, Tensor) else self._loss
                observer.batch_end(loss, self._step(trainer), last=trainer.is_last_batch)
        self._raise_if_strict()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Get ready to hear of the validation loss."""
        if self._validation is not None:
            self._validation.begin()
        with self._watching() as observer:
            if observer:
                observer.validation.start()

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """See what the validation data are."""
        session = self._session
        if trainer.sanity_checking and batch_idx == dataloader_idx == 0 and session is not None:
            wanted = self._budget and session.wants(Overfit) and _active(trainer)[:1] == [self]
            with session.contain("the experiments on a copy"):
                self._held_out = probing.copied(batch) if wanted else None
        with self._watching() as observer:
            if observer:
                observer.validation.batch_start(batch, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the validation loss."""
        with self._watching() as observer:
            if observer:
                observer.validation.batch_end()
        tap, session = self._validation, self._session
        if tap is None or session is None or dataloader_idx > 0:
            return
        if session.contain.works("the tap on validation"):
            with session.contain("the tap on validation"):
                tap.batch(outputs, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe the validation."""
        tap, session = self._validation, self._session
        if session is None:
            return
        loss = math.nan
        if tap is not None:
            # On every rank, whatever has failed on this one: the others wait for it here.
            with session.contain("the mean over the validation data"):
                loss = tap.loss(trainer.callback_metrics, trainer.strategy.root_device)
        with self._watching() as observer:
            if observer:
                self._validated = True
                self._track(trainer, "validation")
                observer.validation.end(
                    self._step(trainer), trainer.current_epoch, loss, observer.losses()
                )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe what the epoch before has logged: by now it is complete."""
        if trainer.current_epoch > self._first_epoch:
            with self._watching():
                self._track(trainer, "training")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of a batch that broke off and ended the epoch."""
        with self._watching() as observer:
            if observer:
                observer.break_off()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the session."""
        self._finish("completed", trainer)
        self._raise_if_strict()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave word of what was found, for the run that goes on from this checkpoint."""
        session = self._session
        if session is not None and _active(trainer)[:1] == [self]:
            with session.contain("the word left in a checkpoint"):
                checkpoint[resumption.KEY] = session.packed()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember what a checkpoint says of the run so far, until it goes on."""
        self._saved = checkpoint.get(resumption.KEY)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the session; Lightning calls no teardown now."""
        self._finish(type(exception).__name__, trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the session if nothing else has."""
        # There may have been nothing to train; only then is there no start.
        self._finish("interrupted" if self._started else "completed", trainer)

    # -- what to do then --------------------------------------------------------------------

    @contextlib.contextmanager
    def _watching(self) -> Iterator[Observer | None]:
        """Give the observer, if this callback drives one, and contain what it raises."""
        observer, session = self._observer, self._session
        if observer is None or session is None:
            yield None
            return
        with session.contain("the observer"):
            yield observer
        if not session.contain.works("the observer"):
            self._observer = None
            with session.contain("closing the observer"):
                observer.abandon()

    def _earlier(self, trainer: pl.Trainer) -> Earlier:
        """Return what is known of the run that this one goes on with; say so if it does."""
        saved, self._saved = self._saved, None
        earlier = Earlier()
        if trainer.ckpt_path is not None and saved is not None:
            try:
                earlier = resumption.unpacked(saved)
            except ValueError as reason:
                trainers.say(f"lightning_debug: no word of the run so far: {reason}")
        if trainers.resumed(trainer):
            trainers.say(
                "lightning_debug: training goes on, so the initial weights and the first loss are"
                f" not judged{_found_before(earlier)}"
            )
        return earlier

    def _step(self, trainer: pl.Trainer) -> int:
        """Return the optimizer updates made, those as well that Lightning does not count."""
        return trainer.global_step + (self._observer.uncounted if self._observer else 0)

    def _ranks(
        self, trainer: pl.Trainer, module: pl.LightningModule, session: Session
    ) -> RankTap | None:
        """Return what compares the processes; asks all of them."""
        ranks = None
        if self._processes is not None:
            with session.contain(RankTap.name):
                replica, part = trainers.replica(trainer), trainers.part(trainer)
                ranks = RankTap(module, self._processes, replica, part)
                ranks.start()
        return ranks if session.contain.works(RankTap.name) else None

    def _track(self, trainer: pl.Trainer, stage: str) -> None:
        """Show what has been logged and what watches it."""
        if self._observer is not None:
            validated = self._validated or not trainer.enable_validation
            self._observer.validation.track(
                self._step(trainer),
                trainer.current_epoch,
                stage,
                metrics=trainer.callback_metrics,
                watchers=trainers.watchers(trainer),
                complete=stage != "validation" and validated,
            )

    def _record_news(self, *, last: bool = False) -> None:
        """Record what has become known of the run since."""
        later, session = self._later, self._session
        if later is None or session is None or session.closed:
            return
        with session.contain(RECORD):
            if news := later.news(last=last):
                session.record(news)
        if last or not (later.waiting and session.contain.works(RECORD)):
            self._later = None

    def _finish(self, status: str, trainer: pl.Trainer | None = None) -> None:
        together.leave(self)
        if trainer is not None and self._session is not None and not self._session.closed:
            with self._watching():
                self._track(trainer, "run")
        self._record_news(last=True)
        step, epoch = (self._step(trainer), trainer.current_epoch) if trainer else (0, 0)
        observer, self._observer = self._observer, None
        self._validation = None
        self._probabilities = self._held_out = None
        session = self._session
        self._loss = None
        if session is None or session.closed:
            return
        if observer is not None:
            with session.contain("the end of the observer"):
                observer.close(step, epoch, completed=status == "completed")
        if trainer is None or _active(trainer)[:1] == [self]:
            metrics = trainers.metrics(trainer) if trainer else {}
            self._await_others(session, status)
            session.close(status, step=step, epoch=epoch, metrics=metrics)
            if trainer is not None and trainer.is_global_zero:
                with session.contain("the way home of the findings"):
                    told = [probing.told(made, session) for made in self._made]
                    failures = session.contain.failures
                    self._homecoming.leave(
                        Returned(session.findings, told, failures, self.run_folder)
                    )

    def _await_others(self, session: Session, status: str) -> None:
        """Wait for what other processes have found, if they are to come to an end as well."""
        processes, self._processes = self._processes, None
        if processes is not None and processes.rank == 0 and status == "completed":
            with session.contain("the findings of other processes"):
                processes.await_others()

    def _raise_if_strict(self) -> None:
        if self._level is None or self._session is None:
            return
        level = self._level
        bad = [f for f in self.findings if f.severity >= level]
        if bad:
            lines = [f"{f.severity}: {f.name} at {f.where}: {f.message} Fix: {f.fix}" for f in bad]
            raise TrainingBugError("\n".join([f"{len(bad)} findings in strict mode:", *lines]))


def _active(trainer: pl.Trainer) -> list[Section]:
    """Return the sections that are on; the script's own win over the environment's."""
    callbacks: list[pl.Callback] = getattr(trainer, "callbacks")  # noqa: B009 - set, not declared
    found = [callback for callback in callbacks if isinstance(callback, Section)]
    own = [section for section in found if not section.from_environment]
    return [section for section in (own or found) if section.debug]


def _described(trainer: pl.Trainer, module: pl.LightningModule, *, whole: bool) -> dict[str, Any]:
    """Return what is known of a run that is about to start."""
    return record.describe(
        module,
        trainer.optimizers,
        trainers.settings(trainer),
        schedulers=trainers.schedulers(trainer),
        hyperparameters=trainers.hyperparameters(trainer, module) if whole else None,
    )


def _checks(sections: Sequence[Section]) -> list[Check]:
    chosen: dict[str, Check] = {}
    for section in sections:
        for check in section.checks:
            if check.name() not in chosen or check.name() in section._own:
                chosen[check.name()] = check
    return list(chosen.values())


def _sinks(
    sections: Sequence[Section], trainer: pl.Trainer, processes: Processes | None
) -> list[Sink]:
    """Return where findings go: of other processes than the first, to that one."""
    if trainer.is_global_zero:
        return _own_sinks(sections)
    return [Mailer(processes)] if processes is not None else []


def _others(
    trainer: pl.Trainer, processes: Processes | None
) -> Callable[[], Iterable[tuple[int, Finding]]]:
    """Return what tells the first process of the findings of others."""
    if processes is None or not trainer.is_global_zero:
        return tuple
    return Mailbox(processes).collect


def _own_sinks(sections: Sequence[Section]) -> list[Sink]:
    given = [section._sinks for section in sections if section._sinks is not None]
    if not given:
        return [Console(), Loggers(), RunFolder(), HtmlReport()]
    return list(dict.fromkeys(sink for sinks in given for sink in sinks))


def _announces(sections: Sequence[Section]) -> bool:
    """Tell whether somebody is to hear which experiment is made."""
    told = any(isinstance(sink, Console) for sink in _own_sinks(sections))
    return told or any(section.announces for section in sections)


def _found_before(earlier: Earlier) -> str:
    """Return what was found before this run, as the end of a sentence."""
    if not earlier.looks:
        return ""
    names = ", ".join(earlier.findings) or "nothing"
    return f"; found before, at {earlier.looks} looks: {names}"


def _level(strict: Strict) -> Severity | None:
    if strict is False:
        return None
    return Severity.WARNING if strict == "warning" else Severity.ERROR
