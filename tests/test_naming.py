"""What the name of a metric says, and how code names a module."""

import pytest

from lightning_debug.naming import better, expression, of_validation


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("val_loss", "min"),
        ("val/loss/dataloader_idx_0", "min"),
        ("valLoss", "min"),
        ("dice_loss", "min"),
        ("val_err", "min"),
        ("error_rate", "min"),
        ("val-RMSE", "min"),
        ("val_acc", "max"),
        ("val_top5", "max"),
        ("valAcc1", "max"),
        ("test/Accuracy_epoch", "max"),
        ("val_f1_score", "max"),
        ("macro_f1", "max"),
        ("r2_score", "max"),
        ("val_auroc", "max"),
        ("mIoU", "max"),
        ("val_miou", "max"),
        ("val_map_50", "max"),
        ("neg_loss", ""),
        ("minus_mae", ""),
        ("val_score", ""),
        ("loss_ratio", ""),
        ("loss_scale", ""),
        ("lr-Adam", ""),
        ("epoch", ""),
        ("elbo", ""),
    ],
)
def test_better(name: str, mode: str) -> None:
    assert better(name) == mode


def test_of_validation() -> None:
    assert of_validation("val_loss")
    assert of_validation("loss/valid")
    assert not of_validation("train_loss")
    assert not of_validation("loss")


@pytest.mark.parametrize(
    ("path", "code"),
    [("f1", "self.f1"), ("metrics.2.f1", "self.metrics[2].f1"), ("parts.0.1", "self.parts[0][1]")],
)
def test_expression(path, code):
    assert expression(path) == code
