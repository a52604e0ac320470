"""Workers with the same random numbers, and the same programs with their own."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tests.runs import Program, alarms, digits, fit, names, places, sequences

X, Y = digits().dataset.tensors


class Noisy(Dataset):
    """Adds noise from a generator of its own."""

    def __init__(self, generator):
        self.generator = generator

    def __len__(self):
        return 640

    def __getitem__(self, index):
        noise = self.generator.normal(0, 0.4, 64).astype(np.float32)
        return X[index] + torch.from_numpy(noise), Y[index]


class Erased(Dataset):
    """Blanks random pixels, and keeps images in shape."""

    def __len__(self):
        return 640

    def __getitem__(self, index):
        keep = torch.from_numpy((np.random.rand(1, 8, 8) < 0.5).astype(np.float32))
        return X[index].view(1, 8, 8) * keep, Y[index]


def own_generator(worker):
    get_worker_info().dataset.generator = np.random.default_rng(worker)


def same_seed(worker):
    np.random.seed(0)


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def loader(dataset, start):
    return DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2, worker_init_fn=start)


@pytest.mark.parametrize(
    ("net", "dataset", "bug", "fix"),
    [
        pytest.param(
            mlp,
            lambda: Noisy(np.random.default_rng(0)),
            None,
            own_generator,
            id="a generator copied into each worker",
        ),
        pytest.param(conv, Erased, same_seed, None, id="workers seeded alike"),
    ],
)
def test_workers(net, dataset, bug, fix):
    found = fit(lambda: Program(net()), loader(dataset(), bug), epochs=1)
    fixed = fit(lambda: Program(net()), loader(dataset(), fix), epochs=1)
    assert "duplicate-augmentation" in names(found)
    assert places(found, "duplicate-augmentation") == {"train_dataloader"}
    assert alarms(fixed) == []


class Lines(IterableDataset):
    """Token ids with their class, as lines of a file would come."""

    def __init__(self, split):
        self.ids, self.labels = sequences(n=1024).dataset.tensors
        self.split = split

    def __iter__(self):
        info = get_worker_info()
        order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))
        mine = itertools.islice(order, info.id, None, info.num_workers) if self.split else order
        for index in mine:
            yield self.ids[index], self.labels[index]


class Chunks(Lines):
    """The same in whole batches."""

    def __iter__(self):
        samples = super().__iter__()
        while chunk := list(itertools.islice(samples, 32)):
            ids, labels = zip(*chunk, strict=True)
            yield torch.stack(ids), torch.stack(labels)


class BagOfWords(Program):
    """The mean of embeddings, and a classifier."""

    def __init__(self):
        super().__init__(nn.EmbeddingBag(20, 32))
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.net(x))


@pytest.mark.parametrize(("dataset", "batch_size"), [(Lines, 32), (Chunks, None)])
def test_stream_that_is_not_split(dataset, batch_size):
    def data(split):
        return DataLoader(dataset(split), batch_size=batch_size, num_workers=2)

    found = fit(BagOfWords, data(split=False), epochs=1)
    assert names(found) == {"duplicate-augmentation"}
    assert places(found, "duplicate-augmentation") == {"train_dataloader"}
    assert alarms(fit(BagOfWords, data(split=True), epochs=1)) == []
