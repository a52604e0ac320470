"""The experiments on their own, before a long run: ``preflight(model, datamodule=data)``."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from lightning_debug import trainers
from lightning_debug.check import Check
from lightning_debug.experiment import Experiment
from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.isolation import generators
from lightning_debug.experiments.isolation import seed as reseed
from lightning_debug.experiments.replica import twin
from lightning_debug.finding import Finding, Severity
from lightning_debug.nested import NAMESPACES, namespace, quiet_trainer, quietly
from lightning_debug.section import Section
from lightning_debug.sinks.console import report
from lightning_debug.sinks.experiments import table
from lightning_debug.sinks.progress import Progress
from lightning_debug.suite import DebugSuite

STEPS = 20
# What judges how long the run is: a preflight is short, whatever the run will be.
OF_THE_LENGTH = ("batch-size-too-large",)
# Called once, before a run begins.
HOOKS = ("prepare_data", "setup", "configure_model")
RATES = "learning rate range"
# What Lightning looks for, in its order.
RATE_NAMES = ("lr", "learning_rate")
# Learning rates that are tried, one a step: half of what Lightning tries by default.
RATES_TRIED = 50
# Of a smoothed loss: a part by which it falls clearly.
FALL = 0.02
# Of a run whose budget nobody has set.
MOST = 60.0
# Validation batches after each epoch.
VALIDATED = 2
WIDTH = 100
ORDER = ("found", "passed", "not applicable")


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What came of the experiments and of a few updates, before a long run.

    Print it, or let a notebook show it.

    Attributes:
        findings: What was found, worst first.
        experiments: What was tried, and what came of it.
        failures: Parts of the debugger that failed, with their errors.
    """

    findings: Sequence[Finding] = ()
    experiments: Sequence[Experiment] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether there is no warning and no error."""
        return not any(finding.severity >= Severity.WARNING for finding in self.findings)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield table(self.experiments)
        yield report(self.findings, failures=self.failures)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        console = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
        console.print(self)
        style = "line-height:normal;font-family:Menlo,'DejaVu Sans Mono',consolas,monospace"
        template = f'<pre style="white-space:pre;overflow-x:auto;{style}">{{code}}</pre>'
        return console.export_html(inline_styles=True, code_format=template)


def preflight(
    model: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    checks: Sequence[Check] = (),
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    steps: int = STEPS,
    seconds: float | None = None,
    trainer: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Preflight:
    """Make all experiments, and a few updates with the whole suite on, on a copy of a model.

    The model, the random generators, the environment and the working directory are left as they
    are, and nothing is written. The hooks of a data module are called as ``fit`` would call them,
    on a shallow copy of it: what they set is forgotten, what they write to the disk is not.

    Args:
        model: A LightningModule.
        train_dataloaders: What ``Trainer.fit`` takes, a data module included, or a list of
            batches. None: the loader of the data module or of the model itself.
        val_dataloaders: Likewise, for validation.
        datamodule: Instead of both.
        checks: Checks with thresholds of your own.
        select: Look only for these findings or sections, as in ``DebugSuite``.
        ignore: Do not look for these.
        steps: Optimizer updates of the copy. Experiments are made before the first, after half
            of them, and after the last.
        seconds: Longest time for one experiment; None: half a minute, and a minute for those
            that train copies.
        trainer: Settings of your Trainer that matter for training, such as ``precision``,
            ``gradient_clip_val``, ``accumulate_grad_batches`` and ``accelerator``. By default it
            trains on the device on which the model is, or else on the best that there is.
        seed: Of all random numbers; None: go on from the state in which the generators are.

    Returns:
        Findings and experiments.

    Raises:
        TypeError: If the model is no LightningModule, or another argument has the wrong type.
        ValueError: If there are no data, or a value is out of range.
        RuntimeError: If the model cannot be copied, or a copy does not fit into memory.
    """
    module = _module(model)
    _positive("steps", steps)
    if seconds is not None:
        _positive("seconds", seconds)
    if hasattr(train_dataloaders, "train_dataloader") and datamodule is None:
        train_dataloaders, datamodule = None, train_dataloaders
    _require_data(module, train_dataloaders, val_dataloaders, datamodule)
    return _Trial(
        make=lambda: _copy(module),
        data=_Data(train_dataloaders, val_dataloaders, datamodule),
        settings=_device(module) | dict(trainer or {}),
        steps=steps,
        seconds=seconds,
        seed=seed,
    ).run(DebugSuite(checks=checks, select=select, ignore=ignore, sinks=[]))


def before(
    trainer: Any, module: Module, sections: Sequence[Section], *, steps: int = STEPS
) -> Preflight:
    """Do the same with a run that is about to begin: its module, its data and its settings.

    Args:
        trainer: Of the run; its hooks that set up data and module have been called.
        module: What it is about to train.
        sections: The callbacks that watch the run, for what they look for.
        steps: Optimizer updates of the copy.
    """

    def make() -> Module:
        copied = _copy(module)
        copied.__dict__ |= dict.fromkeys(HOOKS, _nothing)
        return copied

    seconds = [s.preflight for s in sections if not isinstance(s.preflight, (bool, str))]
    suite = DebugSuite(
        select=[pattern for section in sections for pattern in section.select],
        ignore=[pattern for section in sections for pattern in section.ignore],
        sinks=[],
    )
    suite.checks = list({c.name(): c for section in sections for c in section.checks}.values())
    return _Trial(
        make=make,
        data=_Prepared(trainer),
        settings=trainers.replay(trainer),
        steps=steps,
        seconds=min(seconds, default=None),
    ).run(suite)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A few updates of a copy, and a range of learning rates of another.

    Attributes:
        make: Makes the copies.
        data: What they are trained on.
        settings: Of the trainer.
        steps: How many updates.
        seconds: Longest time for one experiment.
        seed: Of all random numbers.
    """

    make: Callable[[], Module]
    data: _Data
    settings: Mapping[str, Any]
    steps: int
    seconds: float | None = None
    seed: int | None = None

    def run(self, suite: DebugSuite) -> Preflight:
        """Return what a suite finds."""
        suite.checks = [check for check in suite.checks if check.name() not in OF_THE_LENGTH]
        suite.give_time(self.seconds)
        begun = time.monotonic()
        with _no_trace(self.data, self.settings, self.seed):
            _fit(self.make(), self.data, self.settings, suite, self.steps)
        step = (time.monotonic() - begun) / self.steps
        experiments = merged(suite.experiments)
        if not suite.select:
            with _no_trace(self.data, self.settings, self.seed):
                experiments.append(self._rates(step))
        return Preflight(
            findings=tuple(suite.findings), experiments=tuple(experiments), failures=suite.failures
        )

    def _rates(self, step: float) -> Experiment:
        """Ask Lightning's tuner for a learning rate, where steps take so long."""
        begun = time.monotonic()
        try:
            needed = RATES_TRIED * step
            if needed > (self.seconds or MOST):
                raise NotApplicableError(f"it would take about {needed:.0f} s")
            with Progress()(RATES):
                detail, outcome = _suggestion(self.make(), self.data, self.settings), "passed"
        except KeyboardInterrupt:
            detail, outcome = "skipped by Ctrl-C", "not applicable"
        except Exception as reason:
            detail, outcome = str(reason), "not applicable"
        seconds = time.monotonic() - begun
        return Experiment(name=RATES, outcome=outcome, detail=detail, seconds=seconds)


class _Batches:
    """A list of batches, which a trainer would take for a collection of loaders."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


class _Data:
    """What a trainer is to fit: loaders, or a data module."""

    def __init__(self, training: Any, validation: Any, module: Any) -> None:
        self._loaders = (_loader(training), _loader(validation))
        self._module = module

    @property
    def validated(self) -> bool:
        """Tell whether there are validation data, as far as is known."""
        return self._module is not None or self._loaders[1] is not None

    def arguments(self) -> dict[str, Any]:
        """Return them for ``fit``; hooks are called on a shallow copy of the data module."""
        if self._module is not None:
            return {"datamodule": copy.copy(self._module)}
        training, validation = self._loaders
        return {"train_dataloaders": training, "val_dataloaders": validation}

    def generators(self) -> list[torch.Generator]:
        """Return the random generators of their own."""
        held: list[Any] = [vars(self._module)] if self._module is not None else []
        loaders = [loader for given in self._loaders for loader in _flat(given)]
        held += [vars(part) for loader in loaders for part in _parts(loader)]
        values = [value for items in held for value in items.values()]
        return [value for value in values if isinstance(value, torch.Generator)]


class _Prepared(_Data):
    """What a trainer has got ready."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        super().__init__(trainer.train_dataloader, trainer.val_dataloaders or None, None)

    def arguments(self) -> dict[str, Any]:
        """Return them for ``fit``; the hooks of the data module have been called."""
        module = getattr(self._trainer, "datamodule", None)
        if module is None:
            return super().arguments()
        copied = copy.copy(module)
        training, validation = self._loaders
        copied.__dict__ |= dict.fromkeys((*HOOKS, "teardown"), _nothing)
        copied.__dict__["train_dataloader"] = lambda: training
        if validation is not None:
            copied.__dict__["val_dataloader"] = lambda: validation
        return {"datamodule": copied}


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a hook that has been called."""


def _module(model: Any) -> Module:
    """Return the module to copy.

    Raises:
        TypeError: If it is not a LightningModule.
    """
    module = getattr(model, "_orig_mod", model)  # compiled as a whole
    parents = type(module).__mro__
    lightning = any(p.__name__ == "LightningModule" for p in parents)
    if not lightning or not any(p.__module__.startswith(NAMESPACES) for p in parents):
        hint = "; pass an object of it" if isinstance(model, type) else ""
        raise TypeError(f"model={_short(model)} is not a LightningModule{hint}")
    found: Module = module
    return found


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={_short(value)} must be a number")
    if name == "steps" and not isinstance(value, int):
        raise TypeError(f"steps={value!r} must be a whole number")
    if not value > 0:
        raise ValueError(f"{name}={value!r} must be greater than 0")


def _require_data(module: Module, training: Any, validation: Any, datamodule: Any) -> None:
    """Refuse data that cannot be trained on."""
    if datamodule is not None:
        if not hasattr(datamodule, "train_dataloader"):
            raise TypeError(f"datamodule={_short(datamodule)} is not a LightningDataModule")
        if training is not None or validation is not None:
            raise ValueError("give either loaders or a data module, not both")
        return
    if training is None:
        owner = next(c for c in type(module).__mro__ if "train_dataloader" in vars(c))
        if owner.__module__.startswith(NAMESPACES):
            raise ValueError("there are no data: give train_dataloaders or a datamodule")
        return
    for name, given in (("train_dataloaders", training), ("val_dataloaders", validation)):
        if isinstance(given, (Tensor, str)) or not (given is None or hasattr(given, "__iter__")):
            raise TypeError(
                f"{name}={_short(given)} is neither a DataLoader nor a data module;"
                " give a list of batches where you have no loader"
            )
        if isinstance(given, Iterator):
            raise TypeError(
                f"{name}={_short(given)} is an iterator, which can be read only once;"
                " give a DataLoader or a list of batches"
            )
        with contextlib.suppress(TypeError):  # of iterable data nobody knows how many there are
            if given is not None and len(given) == 0:
                raise ValueError(f"{name}={_short(given)} is empty: there is no batch in it")


def _loader(given: Any) -> Any:
    """Return what a trainer understands: it takes a list for a collection of loaders."""
    if isinstance(given, (list, tuple)) and not all(map(_is_loader, given)):
        return _Batches(given)
    return given


def _is_loader(value: Any) -> bool:
    return isinstance(value, DataLoader) or (
        hasattr(value, "__iter__") and not isinstance(value, (Tensor, Mapping, list, tuple, str))
    )


def _flat(given: Any) -> list[Any]:
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _parts(loader: Any) -> Iterator[Any]:
    for name in ("sampler", "batch_sampler", "dataset"):
        part = getattr(loader, name, None)
        if hasattr(part, "__dict__"):
            yield part
    if hasattr(loader, "__dict__"):
        yield loader


def _device(module: Module) -> dict[str, Any]:
    """Return where to train: where the model is, if somebody has put it there."""
    device = next((t.device for t in (*module.parameters(), *module.buffers())), None)
    if device is not None and device.type == "cuda":
        return {"accelerator": "cuda", "devices": [device.index or 0]}
    if torch.cuda.is_available():
        return {"accelerator": "cuda", "devices": 1}
    return {"accelerator": "cpu", "devices": 1}


def _copy(module: Module) -> Module:
    try:
        copied = twin(module)
    except NotApplicableError as reason:
        raise RuntimeError(f"there is no preflight of this model: {reason}") from reason
    # A compiled module keeps its compiled methods, which are bound to the original.
    for name in vars(copied).get("_compiler_ctx") or ():
        copied.__dict__.pop(name.removeprefix("original_"), None)
    copied.__dict__["_compiler_ctx"] = None
    copied.__dict__["configure_callbacks"] = list
    return copied


def _fit(
    module: Module, data: _Data, settings: Mapping[str, Any], suite: DebugSuite, steps: int
) -> None:
    """Train a copy for a few updates."""
    with tempfile.TemporaryDirectory(prefix="lightning_debug") as folder:
        run = quiet_trainer(
            namespace(module),
            **{
                "max_steps": steps,
                "max_epochs": steps,
                "limit_train_batches": steps * int(settings.get("accumulate_grad_batches", 1)),
                "limit_val_batches": VALIDATED,
                "num_sanity_val_steps": 1 if data.validated else 0,
                "default_root_dir": folder,
                "callbacks": [suite],
                **settings,
            },
        )
        try:
            run.fit(module, **data.arguments())  # type: ignore[arg-type]
        except SystemExit as error:
            # Lightning makes an exit of an interrupt.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        if run.fit_loop.total_batch_idx < 0:
            raise ValueError("the training loader is empty: there is no batch in it")


@contextlib.contextmanager
def _no_trace(data: _Data, settings: Mapping[str, Any], number: int | None) -> Iterator[None]:
    """Keep what is trained inside from leaving a trace in the process."""
    if settings.get("accelerator") in ("cuda", "gpu"):
        torch.cuda.init()  # type: ignore[no-untyped-call]  # its generators exist from now on
    environment, folder = dict(os.environ), os.getcwd()
    states = [(generator, generator.get_state()) for generator in data.generators()]
    dtype = torch.get_default_dtype()
    with (
        quietly(),
        generators(),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        if number is not None:
            reseed(number)
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)
            torch.set_default_dtype(dtype)
            os.chdir(folder)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def merged(made: Sequence[Experiment]) -> list[Experiment]:
    """Return one line for each experiment, though some are made twice; the worst speaks."""
    lines: dict[str, Experiment] = {}
    for experiment in made:
        before = lines.get(experiment.name)
        if before is None:
            lines[experiment.name] = experiment
            continue
        speaks = min(before, experiment, key=lambda one: ORDER.index(one.outcome))
        seconds = before.seconds + experiment.seconds
        lines[experiment.name] = replace(speaks, seconds=seconds)
    return list(lines.values())


def _suggestion(module: Module, data: _Data, settings: Mapping[str, Any]) -> str:
    """Return which learning rate a copy is set to, and which one Lightning's tuner suggests.

    Raises:
        NotApplicableError: If it has none to suggest.
    """
    name = next((n for n in RATE_NAMES if _value(module, n) is not None), "")
    if not name:
        raise NotApplicableError("the module has no attribute lr or learning_rate")
    root = namespace(module)
    tuner = importlib.import_module(root + ".tuner").Tuner
    with (
        tempfile.TemporaryDirectory(prefix="lightning_debug") as folder,
        contextlib.redirect_stderr(io.StringIO()),  # a progress bar
    ):
        run = quiet_trainer(
            root,
            **{
                "default_root_dir": folder,
                "max_epochs": RATES_TRIED,
                "limit_val_batches": 0,
                **settings,
            },
        )
        try:
            finder = tuner(run).lr_find(
                module,
                num_training=RATES_TRIED,
                attr_name=name,
                update_attr=False,
                **data.arguments(),
            )
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise NotApplicableError("the training ended the process") from error
    losses = finder.results["loss"] if finder is not None else []
    # Lightning suggests a rate whatever the loss does.
    falls = any(
        top - loss > FALL * abs(top)
        for top, loss in zip(itertools.accumulate(losses, max), losses, strict=True)
    )
    suggested = finder.suggestion() if finder is not None and falls else None
    if suggested is None:
        raise NotApplicableError("the loss falls clearly at none of the rates")
    return f"{_value(module, name):.3g} is set; Lightning's Tuner suggests {suggested:.2g}"


def _value(module: Module, name: str) -> float | None:
    """Return a learning rate, from where Lightning looks for it."""
    hparams = getattr(module, "hparams", None) or {}
    value = getattr(module, name, None)
    value = hparams.get(name) if value is None and isinstance(hparams, Mapping) else value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and value is not None else None


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else f"an object of class {type(value).__name__}"
