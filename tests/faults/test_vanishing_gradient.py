"""Deep networks in which the signal dies on the way back, and the same networks mended."""

import pytest
from torch import nn

from tests.runs import Program, alarms, digits, fit, names, places, sequences


def sigmoids(broken):
    layers = [nn.Linear(64, 64)]
    for _ in range(9):
        layers += [nn.Sigmoid() if broken else nn.ReLU(), nn.Linear(64, 64)]
    if not broken:
        for layer in layers[::2]:
            nn.init.kaiming_normal_(layer.weight)
    return Program(nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 10)))


def small_tanh(broken):
    layers = []
    for _ in range(10):
        layers += [nn.Linear(64, 64), nn.Tanh()]
        if broken:
            nn.init.normal_(layers[-2].weight, std=0.01)
        else:
            nn.init.xavier_uniform_(layers[-2].weight, gain=5 / 3)
    return Program(nn.Sequential(*layers, nn.Linear(64, 10)))


def convolutions(broken):
    layers = [nn.Conv2d(1, 8, 3, padding=1)]
    for _ in range(8):
        layers += [nn.Sigmoid()] if broken else [nn.BatchNorm2d(8), nn.ReLU()]
        layers += [nn.Conv2d(8, 8, 3, padding=1)]
    return Program(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)))


class Branch(nn.Module):
    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.body = nn.Sequential(nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Sigmoid())
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        return self.body(x) if self.broken else x + self.body(self.norm(x))


class Mixer(nn.Module):
    """Residual connections were forgotten."""

    def __init__(self, broken):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.blocks = nn.Sequential(*[Branch(broken) for _ in range(5)])
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.blocks(self.table(ids)).mean(1))


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(sigmoids, digits(), "net.0.weight", id="deep sigmoid mlp"),
        pytest.param(
            small_tanh,
            digits(),
            "net.0.weight",
            id="tanh mlp, tiny weights",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            convolutions,
            digits(flat=False),
            "net.0.weight",
            id="deep sigmoid cnn",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda broken: Program(Mixer(broken)),
            sequences(),
            "net.table.weight",
            id="blocks without residuals",
        ),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data)
    assert "vanishing-gradient" in names(broken)
    assert places(broken, "vanishing-gradient") == {where}
    assert alarms(fit(lambda: program(False), data)) == []
