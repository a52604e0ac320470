"""Monitors that watch the wrong way or nothing, and the programs without the bug."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from tests.runs import Program, alarms, digits, fit, names, places

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def held_out(flat: bool = True) -> DataLoader[Any]:
    """Digits that are not in the training data."""
    x, y = digits(n=1797, flat=flat).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x[1497:], y[1497:]), batch_size=100)


class Cnn(Program):
    """Logs its accuracy by hand."""

    def __init__(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
        )
        super().__init__(net, optimizer=SGD)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.log("val/Accuracy", (logits.argmax(1) == y).float().mean())
        loss = F.cross_entropy(logits, y)
        self.log("val/objective", loss)
        return loss


class Lstm(Program):
    """Logs a metric object under a name that says nothing."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(8, 32, batch_first=True), optimizer=SGD)
        self.head, self.f1 = nn.Linear(32, 10), MulticlassF1Score(10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.net(x.view(-1, 8, 8))[0][:, -1])
        return logits

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.f1(self(x), y)
        self.log("quality", self.f1)


class Mlp(Program):
    """A scheduler that waits for a plateau."""

    def __init__(self, monitor: str, mode: str = "min") -> None:
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        super().__init__(net, optimizer=SGD)
        self.monitor, self.mode = monitor, mode

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, self.mode, patience=9)
        config = {"scheduler": plateau, "monitor": self.monitor, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": config}


def plain() -> Mlp:
    return Mlp("val_loss")


CASES = [
    pytest.param(
        (Cnn, {"monitor": "val/Accuracy"}),
        (Cnn, {"monitor": "val/Accuracy", "mode": "max"}),
        "ModelCheckpoint", id="checkpoint, default mode",
    ),
    pytest.param(
        (Cnn, {"monitor": "val/objective", "mode": "max"}),
        (Cnn, {"monitor": "val/objective"}),
        "ModelCheckpoint", id="the loss under another name",
    ),
    pytest.param(
        (Lstm, {"monitor": "quality"}), (Lstm, {"monitor": "quality", "mode": "max"}),
        "ModelCheckpoint", id="metric object",
    ),
    pytest.param(
        (lambda: Mlp("val_acc"), {}), (lambda: Mlp("val_acc", "max"), {}),
        "ReduceLROnPlateau", id="plateau, default mode",
    ),
    pytest.param(
        (lambda: Mlp("valid_loss"), {}), (plain, {}), "ReduceLROnPlateau", id="never logged"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("bug", "fix", "place"), CASES)
def test_monitor_mode_reversed(bug: Any, fix: Any, place: str, tmp_path: Any) -> None:
    found, fixed = (
        fit(
            module,
            digits(n=1024, flat=module is not Cnn),
            validation=held_out(module is not Cnn),
            epochs=3,
            callbacks=(ModelCheckpoint(tmp_path, **settings),) if settings else (),
            enable_checkpointing=bool(settings),
        )
        for module, settings in (bug, fix)
    )
    assert "monitor-mode-reversed" in names(found)
    assert places(found, "monitor-mode-reversed") == {place}
    assert alarms(fixed) == []


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        pytest.param({"monitor": "val_acc"}, {"monitor": "val_acc", "mode": "max"}, id="mode"),
        pytest.param(
            {"monitor": "valid_loss", "strict": False}, {"monitor": "val_loss"}, id="never logged"
        ),
    ],
)
def test_early_stopping(bug: Any, fix: Any) -> None:
    found, fixed = (
        fit(
            plain, digits(n=1024), validation=held_out(), epochs=4,
            callbacks=(EarlyStopping(patience=3, **settings),),
        )
        for settings in (bug, fix)
    )  # fmt: skip
    assert places(found, "monitor-mode-reversed") == {"EarlyStopping"}
    assert alarms(fixed) == []


def test_said_before_the_crash() -> None:
    """Lightning raises for a metric that is not there; the report says what is."""
    from lightning_debug import DebugSuite

    suite = DebugSuite(debug=True, sinks=[])
    with pytest.raises(RuntimeError, match="not available"):
        fit(
            plain,
            digits(n=256),
            suite=suite,
            validation=held_out(),
            callbacks=(EarlyStopping("valid_loss"),),
        )
    (finding,) = (f for f in suite.findings if f.name == "monitor-mode-reversed")
    assert "'val_loss'" in finding.message


def test_no_validation_at_all(tmp_path: Any) -> None:
    found = fit(
        plain, digits(n=512), callbacks=(ModelCheckpoint(tmp_path, monitor="val_loss"),), epochs=3,
        enable_checkpointing=True,
    )  # fmt: skip
    assert "ModelCheckpoint" in places(found, "monitor-mode-reversed")
