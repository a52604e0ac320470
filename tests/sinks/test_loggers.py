import csv
import importlib
import logging
import math

import pytest

from lightning_debug.finding import Severity
from lightning_debug.sinks.loggers import Loggers
from lightning_debug.sinks.sink import RunInfo
from tests.build import finding

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]


def start(*loggers):
    sink = Loggers()
    sink.start(RunInfo(loggers=loggers))
    return sink


def logger_class(namespace, name):
    return getattr(importlib.import_module(f"{namespace}.loggers"), name)


class Recorder:
    """A logger that can show numbers only."""

    def __init__(self):
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((dict(metrics), step))


class Remote(Recorder):
    def __init__(self, *, connected):
        super().__init__()
        self.connected = connected

    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        if not self.connected:
            raise ConnectionError("no route")


class Experiment:
    """Takes text as Comet and Neptune do."""

    def __init__(self):
        self.texts = []

    def log_text(self, text, step):
        self.texts.append((text, step))

    def __getitem__(self, key):
        assert key == "debug/findings"
        return self

    def append(self, text, step):
        self.texts.append((text, step))


class CometLogger(Recorder):
    def __init__(self):
        super().__init__()
        self.experiment = Experiment()


class NeptuneLogger(CometLogger):
    pass


def test_numbers_are_prefixed():
    recorder = Recorder()
    start(recorder).stats(7, 1, {"gradient-norm/encoder": 0.5})
    assert recorder.metrics == [({"debug/gradient-norm/encoder": 0.5}, 7)]


def test_names_hold_only_what_every_logger_takes():
    recorder = Recorder()
    start(recorder).stats(7, 1, {"gradient-norm/<b>ü\x1b": 0.5})
    [(metrics, _)] = recorder.metrics
    assert list(metrics) == ["debug/gradient-norm/_b___"]


def test_a_logger_without_text_shows_a_finding_as_a_number():
    recorder = Recorder()
    start(recorder).finding(finding(), new=True)
    assert recorder.metrics == [({"debug/finding/dead-relu": 1.0}, 12)]


def test_a_changed_finding_is_not_logged_again():
    recorder = Recorder()
    start(recorder).finding(finding(count=2), new=False)
    assert recorder.metrics == []


@pytest.mark.parametrize("cls", [CometLogger, NeptuneLogger])
def test_comet_and_neptune_get_text(cls):
    logger = cls()
    start(logger).finding(finding(), new=True)
    assert logger.experiment.texts == [
        (
            "warning: dead-relu at encoder.0, step 12. 91 % of the units are zero for all 1024"
            " samples. Fix: Lower the learning rate.",
            12,
        )
    ]
    assert logger.metrics == []


def test_a_subclass_of_a_known_logger_is_recognised():
    logger = type("MyCometLogger", (CometLogger,), {})()
    start(logger).finding(finding(), new=True)
    assert len(logger.experiment.texts) == 1


def test_a_logger_that_raises_does_not_stop_the_others():
    # Of one class, so that they are told apart by more than their name.
    broken, healthy = Remote(connected=False), Remote(connected=True)
    sink = start(broken, healthy)
    sink.stats(1, 0, {"a": 1.0})
    sink.stats(2, 0, {"a": 2.0})
    assert healthy.metrics == [({"debug/a": 1.0}, 1), ({"debug/a": 2.0}, 2)]


def test_a_logger_that_raises_is_named_once_and_left_alone(caplog):
    broken = Remote(connected=False)
    sink = start(broken)
    with caplog.at_level(logging.WARNING, "lightning_debug"):
        sink.stats(1, 0, {"a": 1.0})
        sink.stats(2, 0, {"a": 1.0})
    assert broken.metrics == [({"debug/a": 1.0}, 1)]
    [record] = caplog.records
    assert "logger 0 (Remote)" in record.getMessage()


def test_a_new_run_tries_a_broken_logger_again():
    broken = Remote(connected=False)
    sink = start(broken)
    sink.stats(1, 0, {"a": 1.0})
    sink.start(RunInfo(loggers=[broken]))
    sink.stats(2, 0, {"a": 1.0})
    assert len(broken.metrics) == 2


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_tensorboard(tmp_path, namespace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = logger_class(namespace, "TensorBoardLogger")(tmp_path)
    sink = start(logger)
    sink.stats(3, 0, {"gradient-norm": 0.25, "loss": math.nan})
    sink.finding(finding(message="<script>alert(1)</script>\n# title"), new=True)
    logger.finalize("success")

    events = EventAccumulator(logger.log_dir).Reload()
    [norm] = events.Scalars("debug/gradient-norm")
    assert (norm.step, norm.value) == (3, 0.25)
    assert math.isnan(events.Scalars("debug/loss")[0].value)
    [text] = events.Tensors("debug/dead-relu/text_summary")
    assert text.step == 12
    [shown] = text.tensor_proto.string_val
    # One line, indented by four: Markdown shows it as it is.
    assert shown.startswith(b"    warning: dead-relu at encoder.0, step 12. <script>")
    assert b"\n" not in shown


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_csv(tmp_path, namespace):
    logger = logger_class(namespace, "CSVLogger")(tmp_path)
    sink = start(logger)
    sink.stats(3, 0, {"gradient-norm": math.nan})
    sink.finding(finding(), new=True)
    logger.finalize("success")

    with open(f"{logger.log_dir}/metrics.csv") as file:
        first, second = csv.DictReader(file)
    assert (first["step"], first["debug/gradient-norm"]) == ("3", "nan")
    assert (second["step"], second["debug/finding/dead-relu"]) == ("12", "1.0")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_mlflow(tmp_path, namespace, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = logger_class(namespace, "MLFlowLogger")(tracking_uri=tmp_path.as_uri())
    sink = start(logger)
    sink.stats(3, 0, {"gradient-norm": 0.25, "loss": math.nan, "ratio": math.inf})
    sink.finding(finding(), new=True)
    sink.finding(finding(name="zero-gradient", severity=Severity.ERROR), new=True)

    metrics = logger.experiment.get_run(logger.run_id).data.metrics
    assert metrics["debug/gradient-norm"] == 0.25
    assert math.isnan(metrics["debug/loss"])
    assert metrics["debug/ratio"] == math.inf
    [text] = tmp_path.rglob("artifacts/debug/findings.txt")
    first, second = text.read_text().splitlines()
    assert first.startswith("warning: dead-relu at encoder.0, step 12.")
    assert second.startswith("error: zero-gradient at encoder.0, step 12.")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_wandb(tmp_path, namespace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = logger_class(namespace, "WandbLogger")(save_dir=tmp_path, offline=True)
    try:
        sink = start(logger)
        sink.stats(3, 0, {"gradient-norm": 0.25, "loss": math.nan})
        sink.finding(finding(), new=True)
        sink.finding(finding(name="zero-gradient", severity=Severity.ERROR), new=True)
        summary = logger.experiment.summary
        assert summary["debug/gradient-norm"] == 0.25
        assert math.isnan(summary["debug/loss"])
        assert summary["debug/findings"]["nrows"] == 2
    finally:
        logger.experiment.finish()
