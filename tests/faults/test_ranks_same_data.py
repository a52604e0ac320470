"""Processes that train on the same samples, and on samples of their own."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tests.processes import fit_in_two
from tests.runs import Program, alarms, digits, names, regression


class Stream(IterableDataset):
    """Shuffles by a seed that all processes share; takes all samples, or a share of them."""

    def __init__(self, shares):
        self.shares = shares
        self.samples = digits(n=640).dataset
        self.epoch = 0

    def __iter__(self):
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.samples), generator=generator).tolist()
        for index in order[rank::size] if self.shares else order:
            yield self.samples[index]


def classifier():
    return Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))


def regressor():
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    return Program(net, nn.functional.mse_loss)


@pytest.mark.parametrize(
    ("program", "broken", "fixed", "settings"),
    [
        pytest.param(
            classifier,
            lambda: DataLoader(Stream(shares=False), batch_size=16),
            lambda: DataLoader(Stream(shares=True), batch_size=16),
            {},
            id="a stream that is not shared out",
        ),
        pytest.param(
            regressor, regression, regression, {"use_distributed_sampler": False}, id="no sampler"
        ),
    ],
)
def test_pair(program, broken, fixed, settings):
    suite = fit_in_two(program, broken(), max_epochs=1, **settings)
    assert names(suite) == {"ranks-same-data"}
    assert suite.findings[0].evidence["rank"] == "0, 1"
    assert not alarms(fit_in_two(program, fixed(), max_epochs=1))
