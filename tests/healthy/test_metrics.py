"""Metrics and monitors used as they are meant, in unusual ways."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection, SumMetric, functional
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)
from torchmetrics.functional.retrieval import retrieval_average_precision
from torchmetrics.regression import MeanSquaredError
from torchmetrics.wrappers import ClasswiseWrapper, Running

from tests.runs import Program, alarms, digits, fit

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def mlp(outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def held_out(batch: int = 40) -> DataLoader[Any]:
    """Digits that are not in the training data; the last batch is smaller."""
    x, y = digits(n=1797).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x[1500:], y[1500:]), batch_size=batch)


class Classifier(Program):
    """Ten digits; ``metric`` is what a program does with its outputs."""

    def __init__(self) -> None:
        super().__init__(mlp(), optimizer=SGD)
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.f1 = MulticlassF1Score(10)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.metric(logits, y)

    def metric(self, logits: Tensor, y: Tensor) -> None:
        """Log something."""


class Objects(Classifier):
    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.f1(logits, y)
        self.accuracy.update(logits, y)
        self.log("val_f1", self.f1)
        self.log("val_acc", self.accuracy, on_epoch=True)


class BothStages(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.train_f1 = MulticlassF1Score(10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.train_f1(logits, y)
        self.log("train_f1", self.train_f1, on_step=False, on_epoch=True)
        return F.cross_entropy(logits, y)

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.f1(logits, y)
        self.log("val_f1", self.f1)


class ByHand(Classifier):
    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.f1.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        self.log("val_f1", self.f1.compute())
        self.f1.reset()


class ResetAtStart(Classifier):
    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.f1.update(logits, y)

    def on_validation_epoch_start(self) -> None:
        self.f1.reset()

    def on_validation_epoch_end(self) -> None:
        self.log("val_f1", self.f1.compute())


class TrainByHand(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.f1.update(logits, y)
        return F.cross_entropy(logits, y)

    def on_train_epoch_end(self) -> None:
        self.log("train_f1", self.f1.compute())
        self.f1.reset()


class OnStepOnly(Classifier):
    """Never reset, but only the value of the batch is used."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.log("train_acc", self.accuracy(logits, y), on_step=True)
        return F.cross_entropy(logits, y)


class AverageAccuracy(Classifier):
    """The mean over batches of a micro accuracy is, weighted by size, the accuracy."""

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.log("val_acc", self.accuracy(logits, y), on_epoch=True)


class Functions(Classifier):
    """Metrics that are functions: means of means, and those of each query for itself."""

    def metric(self, logits: Tensor, y: Tensor) -> None:
        probabilities = logits.softmax(dim=1)
        self.log("val_acc", functional.accuracy(logits, y, "multiclass", num_classes=10))
        self.log("val_acc_sk", float(metrics.accuracy_score(y, logits.argmax(dim=1))))
        error = functional.mean_absolute_error(probabilities, F.one_hot(y, 10).float())
        self.log("val_mae", error)
        each = [
            retrieval_average_precision(row, F.one_hot(label, 10))
            for row, label in zip(probabilities, y, strict=True)
        ]
        self.log("val_map", torch.stack(each).mean())
        f1 = [
            functional.f1_score(row[None], label[None], "multiclass", num_classes=10)
            for row, label in zip(logits, y, strict=True)
        ]
        self.log("val_f1_of_each", torch.stack(f1).mean())


class Best(Classifier):
    """Keeps the best of all epochs on purpose, and counts all samples ever seen."""

    def __init__(self) -> None:
        super().__init__()
        self.best, self.seen, self.mean_loss = MaxMetric(), SumMetric(), MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.update(len(batch[0]))
        loss: Tensor = super().training_step(batch, batch_idx)
        self.mean_loss(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("samples", self.seen.compute())
        self.log("mean_loss", self.mean_loss.compute())
        self.mean_loss.reset()

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.accuracy.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        accuracy = self.accuracy.compute()
        self.accuracy.reset()
        self.best.update(accuracy)
        self.log("val_acc", accuracy)
        self.log("val_acc_best", self.best.compute())


class Collection(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection(
            {"acc": MulticlassAccuracy(10), "f1": MulticlassF1Score(10)}, prefix="val/"
        )
        self.by_name = nn.ModuleDict({"f1": MulticlassF1Score(10)})

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.metrics(logits, y)
        self.log_dict(self.metrics)
        self.by_name["f1"](logits, y)
        self.log("val_f1", self.by_name["f1"])


class Smoothed(Classifier):
    """A running mean goes over the ends of epochs by design."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Running(MeanSquaredError(), window=5)

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.running.update(logits.softmax(1), F.one_hot(y, 10).float())

    def on_validation_epoch_end(self) -> None:
        self.log("val_running", self.running.compute())


class ForEachClass(Classifier):
    """Values for each class: reset by hand, of the batch only, of the last batches, and a plot."""

    def __init__(self) -> None:
        super().__init__()
        self.each = MulticlassF1Score(10, average=None)
        self.batch = ClasswiseWrapper(MulticlassAccuracy(10, average=None))
        self.recent = Running(MulticlassAccuracy(10, average=None), window=5)
        self.plot = MulticlassConfusionMatrix(10, normalize="true")

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.each.update(logits, y)
        self.log_dict(self.batch(logits, y))
        self.recent.update(logits, y)
        self.plot.update(logits, y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"f1_{i}": value for i, value in enumerate(self.each.compute())})
        self.each.reset()
        self.log_dict({f"recent_{i}": value for i, value in enumerate(self.recent.compute())})


class NotLogged(Classifier):
    """Accumulates for a plot at the very end."""

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.f1.update(logits, y)


class Binary(Program):
    """Whether a digit is above four, with classes made in several right ways."""

    def __init__(self, way: str) -> None:
        super().__init__(mlp(1), optimizer=SGD)
        self.way = way
        self.accuracy, self.auroc = BinaryAccuracy(), BinaryAUROC()

    def classes(self, logits: Tensor) -> Tensor:
        if self.way == "zero":
            return logits > 0
        if self.way == "round":
            return torch.sigmoid(logits).round()
        if self.way == "written":
            classes = torch.sigmoid(logits.detach())
            classes[classes > 0.5] = 1.0
            classes[classes <= 0.5] = 0.0
            return classes
        return torch.sigmoid(logits) > 0.5

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits, target = self(x).squeeze(1), (y > 4).float()
        self.log("acc", (self.classes(logits) == target).float().mean())
        return F.binary_cross_entropy_with_logits(logits, target)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits, target = self(x).squeeze(1), (y > 4).float()
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, target))
        scores = logits  # the metrics take the sigmoid themselves
        if self.way == "scores":
            scores = torch.sigmoid(logits)
            assert ((scores >= 0) & (scores <= 1)).all()
        self.accuracy(scores, target.long())
        self.auroc(scores, target.long())
        self.log_dict({"val_acc": self.accuracy, "val_auroc": self.auroc})
        self.log("val_by_hand", (self.classes(logits) == target).float().mean())
        self.log("val_share", self.classes(logits).float().mean())


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Objects, id="metric objects"),
        pytest.param(BothStages, id="an object for each stage"),
        pytest.param(ByHand, id="computed and reset by hand"),
        pytest.param(ResetAtStart, id="reset at the start of validation"),
        pytest.param(TrainByHand, id="reset by hand in training"),
        pytest.param(OnStepOnly, id="on step only"),
        pytest.param(AverageAccuracy, id="mean of a mean"),
        pytest.param(Functions, id="functions"),
        pytest.param(Best, id="best so far, and counters"),
        pytest.param(Collection, id="collection and module dict"),
        pytest.param(Smoothed, id="running mean"),
        pytest.param(NotLogged, id="never reported"),
        pytest.param(ForEachClass, id="values for each class"),
        pytest.param(lambda: Binary("zero"), id="logits over 0"),
        pytest.param(lambda: Binary("scores"), id="probabilities given to metrics"),
        pytest.param(lambda: Binary("round"), id="probabilities rounded"),
        pytest.param(lambda: Binary("written"), id="classes written over probabilities"),
        pytest.param(lambda: Binary("half"), id="probabilities over 0.5"),
    ],
)
def test_metrics(module: Any) -> None:
    suite = fit(module, digits(n=1024), validation=held_out(), epochs=4, num_sanity_val_steps=2)
    assert alarms(suite) == []


def test_means_over_single_samples() -> None:
    class Single(Classifier):
        def metric(self, logits: Tensor, y: Tensor) -> None:
            self.log("val_f1", self.f1(logits, y))

    assert alarms(fit(Single, digits(n=512), validation=held_out(batch=1), epochs=2)) == []


class Named(Classifier):
    """Logs one quantity under the name that is asked for."""

    def __init__(self, name: str, sign: float = 1.0) -> None:
        super().__init__()
        self.name, self.sign = name, sign

    def metric(self, logits: Tensor, y: Tensor) -> None:
        self.log(self.name, self.sign * F.cross_entropy(logits, y), on_epoch=True)


@pytest.mark.parametrize(
    ("name", "mode", "sign"),
    [
        ("val_loss_2", "min", 1.0),
        ("neg_loss", "max", -1.0),
        ("val/minus_mae", "max", -1.0),
        ("score", "max", -1.0),
        ("val_elbo", "max", -1.0),
        ("val_error", "max", -1.0),  # the curve says that it is turned round
        ("val_loss_ratio", "max", -1.0),
    ],
)
def test_monitors(name: str, mode: str, sign: float, tmp_path: Any) -> None:
    suite = fit(
        partial(Named, name, sign),
        digits(n=512),
        validation=held_out(),
        epochs=8,
        callbacks=(
            EarlyStopping(name, mode=mode, patience=20),
            ModelCheckpoint(tmp_path, monitor=name, mode=mode),
        ),
        enable_checkpointing=True,
    )
    assert alarms(suite) == []


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        pytest.param({"monitor": None}, {}, id="nothing monitored"),
        pytest.param({"monitor": "val_acc", "mode": "min", "save_top_k": 0}, {}, id="nothing kept"),
        pytest.param({"monitor": "val_acc", "mode": "max"}, {}, id="accuracy up"),
        pytest.param({"monitor": "loss", "mode": "min"}, {}, id="training loss"),
        pytest.param(
            {"monitor": "val_loss"}, {"check_val_every_n_epoch": 3, "epochs": 2}, id="not yet"
        ),
        pytest.param(
            {"monitor": "val_loss", "every_n_train_steps": 7}, {}, id="before the first validation"
        ),
    ],
)
def test_checkpoints(settings: Any, data: Any, tmp_path: Any) -> None:
    suite = fit(
        AverageAccuracy,
        digits(n=512),
        validation=held_out(),
        callbacks=(ModelCheckpoint(tmp_path, **settings),),
        enable_checkpointing=True,
        **({"epochs": 4} | data),
    )
    assert alarms(suite) == []


def test_plateau() -> None:
    class Plateau(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"},
            }

    assert alarms(fit(Plateau, digits(n=512), validation=held_out(), epochs=4)) == []
