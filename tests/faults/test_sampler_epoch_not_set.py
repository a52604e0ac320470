"""Samplers for several processes that nobody tells the epoch, and that are told."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from tests.processes import fit_in_two
from tests.runs import Program, alarms, digits, names


class Batches(Sampler):
    """Batches for one process, in an order that the seed and the epoch give."""

    def __init__(self, samples, size=16):
        self.samples, self.size, self.epoch = samples, size, 0
        self.num_replicas = 2

    def __len__(self):
        return self.samples // self.num_replicas // self.size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        own = order[torch.distributed.get_rank() :: self.num_replicas].tolist()
        for start in range(0, len(self) * self.size, self.size):
            yield own[start : start + self.size]

    def set_epoch(self, epoch):
        self.epoch = epoch


class Stream(IterableDataset):
    """The same for a stream."""

    def __init__(self):
        self.samples = digits(n=320).dataset
        self.batches = Batches(320)

    def set_epoch(self, epoch):
        self.batches.set_epoch(epoch)

    def __iter__(self):
        for indices in self.batches:
            yield from (self.samples[index] for index in indices)


class Tell(pl.Callback):
    """Tells the sampler or the dataset the epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        loader = trainer.train_dataloader
        for source in (loader.batch_sampler, loader.dataset):
            if hasattr(source, "set_epoch"):
                source.set_epoch(trainer.current_epoch)


def dense():
    return Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))


def wide():
    return Program(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 10)))


@pytest.mark.parametrize(
    ("program", "data"),
    [
        pytest.param(
            dense,
            lambda: DataLoader(digits(n=320).dataset, batch_sampler=Batches(320)),
            id="a batch sampler",
        ),
        pytest.param(wide, lambda: DataLoader(Stream(), batch_size=16), id="a stream"),
    ],
)
def test_pair(program, data):
    settings = {"max_epochs": 3, "use_distributed_sampler": False}
    suite = fit_in_two(program, data(), **settings)
    assert names(suite) == {"sampler-epoch-not-set"}
    assert not alarms(fit_in_two(program, data(), callbacks=(Tell(),), **settings))
