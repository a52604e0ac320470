"""The mean loss of a pass over the validation data."""

import math

import pytest
import torch

from lightning_debug.taps.validation import ValidationTap, batch_size, logged_loss

CPU = torch.device("cpu")


def test_batches_weigh_by_their_size():
    tap = ValidationTap()
    tap.begin()
    tap.batch(torch.tensor(1.0), (torch.zeros(30, 2), torch.zeros(30)))
    tap.batch({"loss": torch.tensor(4.0)}, {"x": torch.zeros(10, 2)})
    assert tap.loss({"val_loss": 7.0}, CPU) == pytest.approx(1.75)


def test_each_pass_starts_afresh():
    tap = ValidationTap()
    tap.begin()
    tap.batch(torch.tensor(1.0), torch.zeros(3))
    tap.begin()
    assert math.isnan(tap.loss({}, CPU))


@pytest.mark.parametrize("value", [None, 3.0, {"acc": torch.tensor(1.0)}, torch.zeros(0)])
def test_other_outputs_are_no_loss(value):
    tap = ValidationTap()
    tap.batch(value, torch.zeros(3))
    assert tap.loss({"val_loss": torch.tensor(7.0)}, CPU) == 7.0


@pytest.mark.parametrize(
    "name",
    """val_loss val/loss valid_loss loss/val validLoss val_loss_epoch dev_loss
    val_loss/dataloader_idx_0""".split(),
)
def test_names_of_the_validation_loss(name):
    assert logged_loss({"loss": 1.0, name: 2.0, "val_acc": 3.0}) == 2.0


@pytest.mark.parametrize("name", ["loss", "train_loss", "val_kl_loss", "val_loss/dataloader_idx_1"])
def test_other_names(name):
    assert math.isnan(logged_loss({name: 2.0}))


def test_the_shortest_name_wins():
    assert logged_loss({"val_loss_epoch": 1.0, "val_loss": 2.0}) == 2.0


def test_batch_sizes():
    assert batch_size([torch.tensor(1.0), torch.zeros(5, 2)]) == 5
    assert batch_size("text") == 1
