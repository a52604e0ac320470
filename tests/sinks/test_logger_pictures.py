import importlib

import numpy as np
import pytest

from lightning_debug.picture import Bars, Histogram, Image, Network
from lightning_debug.sinks.loggers import Loggers
from lightning_debug.sinks.sink import RunInfo

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]
HISTOGRAM = Histogram(
    kind="weights", place="net.0.weight", step=10, low=-1.0, high=2.0, counts=(1, 4, 2)
)
PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
IMAGE = Image(kind="feature maps", place="net.0", step=20, caption="12 maps\x1b[31m", pixels=PIXELS)
COLOURS = Image(
    kind="filters", place="net.0", step=20, caption="8 filters", pixels=np.stack([PIXELS] * 3, 2)
)
BARS = Bars(
    kind="input gradients",
    place="batch[0]",
    step=30,
    caption="how much",
    labels=("column 0", "a|b\nc"),
    values=(0.5, 0.25),
)
ALL = (HISTOGRAM, IMAGE, COLOURS, BARS, Network())


def shown(logger, pictures=ALL):
    sink = Loggers()
    sink.start(RunInfo(loggers=[logger]))
    for picture in pictures:
        sink.picture(picture)
    assert not sink._contain.failures


def logger_class(namespace, name):
    return getattr(importlib.import_module(f"{namespace}.loggers"), name)


class CometLogger:
    """Records what is called, as Comet takes it."""

    def __init__(self):
        self.experiment = self
        self.calls = []

    def log_histogram_3d(self, values, name, step):
        self.calls.append(("histogram", name, step, values.tolist()))

    def log_image(self, image_data, name, step, metadata):
        self.calls.append(("image", name, step, metadata["caption"]))

    def log_text(self, text, step):
        self.calls.append(("text", step, text))


class CSVLogger:
    """Can show no pictures."""


def test_it_wants_pictures():
    assert Loggers.draws


def test_a_logger_without_pictures_is_left_alone():
    shown(CSVLogger())


def test_comet():
    logger = CometLogger()
    shown(logger)
    histogram, image, colours, bars = logger.calls
    assert histogram == (
        "histogram",
        "debug/weights/net.0.weight",
        10,
        [-0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 1.5],
    )
    assert image == ("image", "debug/feature_maps/net.0", 20, "12 maps [31m")
    assert colours[1] == "debug/filters/net.0"
    assert bars[:2] == ("text", 30)
    assert bars[2].splitlines()[-2:] == ["| column 0 | 0.5 |", "| a/b c | 0.25 |"]


def test_names_are_safe_and_short():
    logger = CometLogger()
    place = "../\x1b<script>" + "x" * 10_000
    shown(logger, [Image(kind="filters", place=place, step=1, caption="y" * 10_000, pixels=PIXELS)])
    [(_, name, _, caption)] = logger.calls
    assert name.startswith("debug/filters/..___script_xxx")
    assert len(name) < 250
    assert len(caption) == 1000


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_tensorboard(tmp_path, namespace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = logger_class(namespace, "TensorBoardLogger")(tmp_path)
    shown(logger)
    logger.finalize("success")

    events = EventAccumulator(logger.log_dir, size_guidance={"histograms": 0}).Reload()
    [histogram] = events.Histograms("debug/weights/net.0.weight")
    assert histogram.step == 10
    assert (histogram.histogram_value.min, histogram.histogram_value.max) == (-1.0, 2.0)
    assert histogram.histogram_value.num == 7
    assert list(histogram.histogram_value.bucket) == [1, 4, 2]
    assert list(histogram.histogram_value.bucket_limit) == [0.0, 1.0, 2.0]
    [image] = events.Images("debug/feature_maps/net.0")
    assert (image.step, image.width, image.height) == (20, 4, 3)
    assert events.Images("debug/filters/net.0")[0].width == 4
    [caption] = events.Tensors("debug/feature_maps/net.0/text_summary")
    assert list(caption.tensor_proto.string_val) == [b"    12 maps [31m"]
    [bars] = events.Tensors("debug/input_gradients/batch_0_/text_summary")
    assert b"| a/b c | 0.25 |" in bars.tensor_proto.string_val[0]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_mlflow(tmp_path, namespace, monkeypatch):
    from PIL import Image as Pillow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = logger_class(namespace, "MLFlowLogger")(tracking_uri=tmp_path.as_uri())
    shown(logger)
    [image] = tmp_path.rglob("artifacts/debug/feature_maps/net.0-20.png")
    assert np.array_equal(np.asarray(Pillow.open(image).convert("L")), PIXELS)
    [caption] = tmp_path.rglob("artifacts/debug/feature_maps/net.0-20.txt")
    assert caption.read_text() == "12 maps [31m"
    [bars] = tmp_path.rglob("artifacts/debug/input_gradients/batch_0_-30.md")
    assert bars.read_text().endswith("| a/b c | 0.25 |")


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_wandb(tmp_path, namespace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = logger_class(namespace, "WandbLogger")(save_dir=tmp_path, offline=True)
    try:
        shown(logger)
        summary = logger.experiment.summary
        assert summary["debug/weights/net.0.weight"]["_type"] == "histogram"
        assert list(summary["debug/weights/net.0.weight"]["values"]) == [1, 4, 2]
        images = summary["debug/feature_maps/net.0"]
        assert (images["count"], images["width"], images["height"]) == (1, 4, 3)
        assert list(images["captions"]) == ["12 maps [31m"]
        assert summary["debug/input_gradients/batch_0_"]["nrows"] == 2
    finally:
        logger.experiment.finish()
