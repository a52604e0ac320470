import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_debug.experiments.noise import noise
from lightning_debug.experiments.replica import NotApplicableError, Replica


class Mean(pl.LightningModule):
    """Learns the mean of its data: gradient and noise are known exactly."""

    def __init__(self, loss):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(40))
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.mean, batch[0])

    def configure_optimizers(self):
        return None


def mean(m, x):
    return 0.5 * (m - x).square().sum(1).mean()


def summed(m, x):
    return 0.5 * (m - x).square().sum()


def coupled(m, x):
    pairs = (m + x)[::2] * (m + x)[1::2]
    return pairs.sum(1).square().mean()


def data(size, spread=2.0):
    generator = torch.Generator().manual_seed(0)
    return [1.0 + spread * torch.randn(size, 40, generator=generator), torch.arange(size)]


def measured(loss, batch):
    model = Mean(loss)
    replica = Replica(model)
    with replica.working():
        return noise(replica, batch, step=3, epoch=1)


@pytest.mark.parametrize("loss", [mean, summed])
def test_measures_the_known_scale(loss):
    # Variance 4 in each of 40 directions, and a gradient of 1 in each.
    obs = measured(loss, data(1024))
    assert obs.low < 4.0 < obs.high
    assert obs.scale == pytest.approx(4.0, rel=0.2)
    assert (obs.batch, obs.step, obs.epoch) == (1024, 3, 1)


def test_knows_when_it_knows_nothing():
    values, numbers = data(256)
    batch = [values - values.mean(0), numbers]
    obs = measured(mean, batch)
    assert obs.high == float("inf")


@pytest.mark.parametrize(
    ("loss", "batch", "reason"),
    [
        (mean, data(32), "few samples"),
        (coupled, data(256), "depend on each other"),
        (lambda m, x: 0.0 * m.sum(), data(256), "zero"),
    ],
)
def test_not_applicable(loss, batch, reason):
    with pytest.raises(NotApplicableError, match=reason):
        measured(loss, batch)
