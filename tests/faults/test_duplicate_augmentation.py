"""Workers with the same random numbers, and the same programs with their own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tests.runs import Program, alarms, digits, fit, names, places

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
