"""Metrics that report something else than their name says, and the programs without the bug."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import functional
from torchmetrics.classification import (
    BinaryAveragePrecision,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassRecall,
)
from torchmetrics.regression import R2Score
from torchmetrics.wrappers import ClasswiseWrapper

from tests.runs import Program, alarms, digits, fit, names, places

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def held_out(flat: bool = True, batch: int = 30) -> DataLoader[Any]:
    """Digits that are not in the training data."""
    x, y = digits(n=1797, flat=flat).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x[1497:], y[1497:]), batch_size=batch)


def mlp(outputs: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def cnn(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, outputs)
    )


class Accumulated(Program):
    """An MLP; the accuracy is computed by hand."""

    def __init__(self, resets: bool) -> None:
        super().__init__(mlp(), optimizer=SGD)
        self.accuracy = MulticlassAccuracy(10)
        self.resets = resets

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.accuracy.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        self.log("val_acc", self.accuracy.compute())
        if self.resets:
            self.accuracy.reset()


class ForEachClass(Program):
    """An MLP; a metric has one value for each class, as a vector or by name."""

    def __init__(self, named: bool, resets: bool) -> None:
        super().__init__(mlp(), optimizer=SGD)
        recall = MulticlassRecall(10, average=None)
        self.recall = ClasswiseWrapper(recall) if named else recall
        self.named, self.resets = named, resets

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.recall.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        value = self.recall.compute()
        if self.named:
            self.log_dict(value)
        else:
            self.log("worst", value.min())
            self.log("val_recall", value.mean())
        if self.resets:
            self.recall.reset()


class Shared(pl.LightningModule):
    """An LSTM; one metric object for training and validation."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.net, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)
        self.f1 = MulticlassF1Score(10)
        self.val_f1 = self.f1 if shared else MulticlassF1Score(10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(x.view(-1, 8, 8))[0][:, -1])
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.f1.update(logits, y)
        return F.cross_entropy(logits, y)

    def on_train_epoch_end(self) -> None:
        self.log("train_f1", self.f1.compute())
        self.f1.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.val_f1.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        self.log("val_f1_score", self.val_f1.compute())
        if self.val_f1 is not self.f1:
            self.val_f1.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class TrainOnly(Program):
    """The metric of the training data is never reset."""

    def __init__(self, resets: bool) -> None:
        super().__init__(mlp(), optimizer=SGD)
        self.train_acc = MulticlassAccuracy(10)
        self.resets = resets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.train_acc.update(logits, y)
        return F.cross_entropy(logits, y)

    def on_train_epoch_end(self) -> None:
        self.log("train_acc", self.train_acc.compute())
        if self.resets:
            self.train_acc.reset()


class Averaged(Program):
    """A CNN; the average precision or the F1 of each batch is averaged."""

    def __init__(self, metric: Any, averaged: bool) -> None:
        super().__init__(cnn(10), optimizer=SGD)
        self.quality = metric()
        self.averaged = averaged

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        if isinstance(self.quality, BinaryAveragePrecision):
            value = self.quality(logits[:, 9], (y == 9).long())
        elif isinstance(self.quality, R2Score):
            value = self.quality(logits.softmax(1) @ torch.arange(10.0), y.float())
        else:
            value = self.quality(logits, y)
        self.log("val_quality", value if self.averaged else self.quality, on_epoch=True)


class Called(Program):
    """The F1 of each batch, by a function, is averaged; or it is called once for the epoch."""

    def __init__(self, function: Any, averaged: bool) -> None:
        super().__init__(mlp(), optimizer=SGD)
        self.function, self.averaged = function, averaged
        self.seen: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        classes = self(x).argmax(dim=1)
        if self.averaged:
            self.log("val_f1", self.function(y, classes))
        self.seen.append((y, classes))

    def on_validation_epoch_end(self) -> None:
        if not self.averaged:
            target, classes = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
            self.log("val_f1", self.function(target, classes))
        self.seen.clear()


def of_sklearn(target: Tensor, classes: Tensor) -> float:
    return float(metrics.f1_score(target.numpy(), classes.numpy(), average="macro"))


def of_torchmetrics(target: Tensor, classes: Tensor) -> Tensor:
    return functional.f1_score(classes, target, "multiclass", num_classes=10, average="macro")


class Thresholded(pl.LightningModule):
    """A handwritten logistic regression; logits are compared with 0.5."""

    def __init__(self, threshold: float, where: str, probabilities: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(1))
        self.threshold, self.where, self.probabilities = threshold, where, probabilities

    def shared(self, batch: Any, stage: str) -> Tensor:
        x, y = batch
        logits, target = (x @ self.weight + self.bias)[:, None], (y > 4).float()
        if stage == self.where:
            scores = torch.sigmoid(logits.detach()) if self.probabilities else logits.detach()
            predicted = (scores > self.threshold).squeeze(1)
            self.log(f"{stage}_acc", (predicted == target.bool()).float().mean())
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.shared(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.shared(batch, "val")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Rounded(Program):
    """A CNN for several labels at once; logits are rounded."""

    def __init__(self, right: bool) -> None:
        super().__init__(cnn(3), optimizer=SGD)
        self.right = right

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        target = torch.stack([y > 4, y % 2 == 0, y % 3 == 0], dim=1).float()
        logits = self(x)
        loss = F.binary_cross_entropy_with_logits(logits, target)
        scores = torch.sigmoid(logits) if self.right else logits
        self.log("acc", (torch.round(scores) == target).float().mean())
        return loss


class Largest(Program):
    """A CNN; torch.max gives the largest logits first, and their positions second."""

    def __init__(self, bug: bool) -> None:
        super().__init__(cnn(10), optimizer=SGD)
        self.bug = bug

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        largest = torch.max(logits, 1)
        classes = largest[0] if self.bug else largest[1]
        self.log("val_acc", (classes == y).sum() / len(y))


class Equal(Program):
    """An MLP for one logit; its probability is compared as it is."""

    def __init__(self, bug: bool) -> None:
        super().__init__(mlp(1), optimizer=SGD)
        self.bug = bug

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        probability, target = torch.sigmoid(self(x)), (y > 4).float()
        classes = probability if self.bug else (probability > 0.5).float()
        self.log("acc", torch.eq(classes.squeeze(), target).float().mean())
        return F.binary_cross_entropy(probability.squeeze(), target)


CASES = [
    pytest.param(Accumulated, (False, True), "accuracy", True, id="never reset"),
    pytest.param(
        partial(ForEachClass, False), (False, True), "recall", True, id="vector never reset"
    ),
    pytest.param(partial(ForEachClass, True), (False, True), "recall", True, id="dict never reset"),
    pytest.param(Shared, (True, False), "f1", True, id="one object for two stages"),
    pytest.param(TrainOnly, (False, True), "train_acc", True, id="never reset in training"),
    pytest.param(
        partial(Averaged, partial(MulticlassF1Score, 10)), (True, False), "quality", False,
        id="mean of F1",
    ),
    pytest.param(
        partial(Averaged, BinaryAveragePrecision), (True, False), "quality", False, id="precision"
    ),
    pytest.param(partial(Averaged, R2Score), (True, False), "quality", False, id="mean of R2"),
    pytest.param(partial(Called, of_sklearn), (True, False), "f1_score", True, id="sklearn"),
    pytest.param(partial(Called, of_torchmetrics), (True, False), "f1_score", True, id="function"),
    pytest.param(
        lambda bug: Thresholded(0.5 if bug else 0.0, "train"), (True, False), "training_step",
        True, id="logits over 0.5 in training",
    ),
    pytest.param(
        lambda bug: Thresholded(0.5 if bug else 0.0, "val"), (True, False), "validation_step",
        True, id="logits over 0.5 in validation",
    ),
    pytest.param(
        lambda bug: Thresholded(0.0 if bug else 0.5, "val", True), (True, False),
        "validation_step", True, id="probabilities over 0",
    ),
    pytest.param(Rounded, (False, True), "training_step", False, id="logits rounded"),
    pytest.param(Largest, (True, False), "validation_step", False, id="largest logits"),
    pytest.param(Equal, (True, False), "training_step", True, id="probabilities as classes"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "arguments", "place", "flat"), CASES)
def test_metric_misuse(module: Any, arguments: tuple[Any, Any], place: str, flat: bool) -> None:
    found, fixed = (
        fit(
            partial(module, argument),
            digits(n=1024, flat=flat),
            validation=held_out(flat),
            epochs=3,
        )
        for argument in arguments
    )
    assert "metric-misuse" in names(found)
    assert places(found, "metric-misuse") == {place}
    assert alarms(fixed) == []
