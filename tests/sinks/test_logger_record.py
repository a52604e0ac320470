"""What ran, told to the trainer's loggers."""

import importlib
import logging

import pytest

from lightning_debug.sinks.logger_record import summary
from lightning_debug.sinks.loggers import Loggers
from lightning_debug.sinks.sink import RunInfo

RECORD = {
    "model": "Classifier",
    "parameters": 4810,
    "command": ["python", "train.py", "--lr", "0.1"],
    "seeds": {"PL_GLOBAL_SEED": 42, "seeded": True, "torch": 42},
    "packages": {"torch": "2.6.0", "scipy": "1.0"},
    "optimizers": [{"class": "Adam", "groups": [{"lr": 0.1, "betas": [0.9, 0.999]}]}],
    "trainer": {"precision": "16-mixed", "gradient_clip_val": None},
}
LATER = {
    "git": {"commit": "abc123", "dirty": True, "diff": "+ x"},
    "data": {"training": [{"batch_size": 32}], "fingerprint": "f00"},
}


def start(*loggers, record=RECORD):
    sink = Loggers()
    sink.start(RunInfo(loggers=loggers, record=record))
    return sink


def logger_class(name):
    return getattr(importlib.import_module("pytorch_lightning.loggers"), name)


class CometLogger:
    def __init__(self):
        self.experiment, self.others = self, {}

    def log_others(self, values):
        self.others |= values


class NeptuneLogger:
    def __init__(self):
        self.experiment, self.assigned = {"debug/record": self}, {}

    def assign(self, values):
        self.assigned |= values


class Broken:
    def __init__(self):
        self.calls = 0

    def log_others(self, values):
        self.calls += 1
        raise ConnectionError("no route")

    experiment = property(lambda self: self)


def test_the_summary_is_flat_and_short():
    assert summary(RECORD | LATER) == {
        "command": "python train.py --lr 0.1",
        "git_commit": "abc123",
        "git_dirty": True,
        "seed": 42,
        "seeded": True,
        "torch": "2.6.0",
        "precision": "16-mixed",
        "optimizer": "Adam",
        "lr": 0.1,
        "model": "Classifier",
        "parameters": 4810,
        "batch_size": 32,
        "data_fingerprint": "f00",
    }


@pytest.mark.parametrize("record", [{}, {"optimizers": []}, {"seeds": 3}, {"data": [1]}])
def test_a_record_that_lacks_most_has_a_short_summary(record):
    assert summary(record) == {}


def test_texts_are_one_safe_line():
    told = summary({"model": "x\x1b[2J\ny" + "z" * 10_000})["model"]
    assert told.startswith("x [2J yz")
    assert len(told) == 250


def test_comet_is_told_what_is_new():
    logger = CometLogger()
    sink = start(logger)
    assert logger.others["debug/seed"] == 42
    logger.others.clear()
    sink.record(LATER)
    assert logger.others == {
        "debug/git_commit": "abc123",
        "debug/git_dirty": True,
        "debug/batch_size": 32,
        "debug/data_fingerprint": "f00",
    }


def test_neptune_is_told_all():
    logger = NeptuneLogger()
    start(logger).record(LATER)
    assert logger.assigned == summary(RECORD | LATER)


def test_a_logger_that_raises_is_left_alone(caplog):
    broken = type("CometLogger", (Broken,), {})()
    with caplog.at_level(logging.WARNING, "lightning_debug"):
        start(broken).record(LATER)
    assert broken.calls == 1
    assert len(caplog.records) == 1


def test_the_next_run_is_told_anew():
    logger = CometLogger()
    sink = start(logger)
    logger.others.clear()
    sink.start(RunInfo(loggers=[logger], record=RECORD))
    assert logger.others["debug/seed"] == 42


def test_a_file_of_hyperparameters_is_the_user_s_own(tmp_path):
    logger = logger_class("CSVLogger")(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    start(logger).record(LATER)
    logger.save()
    assert [path.read_text() for path in tmp_path.rglob("hparams.yaml")] == ["lr: 0.1\n"]


def test_tensorboard_shows_it_as_text(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = logger_class("TensorBoardLogger")(tmp_path)
    start(logger).record(LATER)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    texts = [e.tensor_proto.string_val[0] for e in events.Tensors("debug/record/text_summary")]
    assert [text.splitlines()[0] for text in texts] == [
        b"    command: python train.py --lr 0.1",
        b"    git_commit: abc123",
    ]
    assert not events.Tags()["scalars"]


def test_mlflow_gets_tags_and_no_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = logger_class("MLFlowLogger")(tracking_uri=tmp_path.as_uri())
    start(logger).record(LATER)
    data = logger.experiment.get_run(logger.run_id).data
    assert data.tags["debug/seed"] == "42"
    assert data.tags["debug/git_commit"] == "abc123"
    assert data.params == {}


def test_wandb_keeps_what_the_user_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = logger_class("WandbLogger")(save_dir=tmp_path, offline=True)
    try:
        logger.log_hyperparams({"lr": 0.1})
        start(logger).record(LATER)
        config = logger.experiment.config
        assert config["lr"] == 0.1
        assert config["debug"] == summary(RECORD | LATER)
    finally:
        logger.experiment.finish()
