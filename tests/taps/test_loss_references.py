"""What a loss is held against: constants, each with a bias of its own, and temperatures."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug.observation import LossCalls
from lightning_debug.session import Session
from lightning_debug.taps.loss_references import shared_axes, temperature
from tests.runs import Program, fit


def axes(net, *shape):
    return shared_axes(net(torch.randn(shape)))


class Spelled(nn.Module):
    """A linear layer of bare parameters."""

    def __init__(self, *shape):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return x @ self.weight + self.bias


class Transposed(nn.Module):
    """A recurrent layer hands on what it made step by step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 6)

    def forward(self, x):
        return self.layer(x.transpose(0, 1))


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (nn.Linear(5, 6), (4, 5), (0,)),
        (nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (2, 3)), nn.Tanh()), (4, 5), (0,)),
        (nn.Linear(5, 6), (4, 7, 5), (0, 1)),
        (Transposed(), (4, 7, 5), (0, 1)),
        (Spelled(6), (4, 5), (0,)),
        (nn.Conv2d(2, 3, 3), (4, 2, 8, 8), (0, 2, 3)),
        (nn.Sequential(nn.ConvTranspose1d(2, 3, 3), nn.Sigmoid()), (4, 2, 8), (0, 2)),
        (nn.Linear(5, 1), (4, 5), ()),
        (nn.Linear(5, 6, bias=False), (4, 5), ()),
        (nn.Linear(5, 6).requires_grad_(False), (4, 5), ()),
        (Spelled(4, 6), (4, 5), ()),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()), (4, 2, 8, 8), ()),
        (nn.Conv2d(2, 1, 3), (4, 2, 8, 8), ()),
        (nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6)), (4, 5), ()),
        (nn.Sequential(nn.Linear(5, 6), nn.Flatten(0)), (4, 5), ()),
    ],
)
def test_what_shares_a_bias(net, shape, expected):
    assert axes(net, *shape) == expected


def test_a_prediction_in_another_format():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert axes(nn.Linear(5, 6), 4, 5) == (0,)


def called(monkeypatch, samples):
    seen = []
    original = Session.observe
    monkeypatch.setattr(Session, "observe", lambda s, o: (seen.append(o), original(s, o)))
    targets = torch.randn(samples, 6) * 0.1 + torch.arange(6.0)
    data = DataLoader(TensorDataset(torch.randn(samples, 5), targets), batch_size=samples)
    fit(lambda: Program(nn.Linear(5, 6), F.mse_loss), data, epochs=1)
    call = next(obs for obs in seen if isinstance(obs, LossCalls)).calls[0]
    return call.references, targets


def test_the_means_of_a_batch_are_corrected_for_its_size(monkeypatch):
    references, targets = called(monkeypatch, 8)
    assert references["mean"] == pytest.approx(targets.var(correction=0).item(), rel=1e-3)
    assert references["bias"] == pytest.approx(targets.var(0).mean().item(), rel=1e-3)


def test_few_samples_do_not_tell(monkeypatch):
    references, _ = called(monkeypatch, 2)
    assert references.keys() == {"zero", "mean"}


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(lambda a, b, s: s * (a @ b.T), id="from the left"),
        pytest.param(lambda a, b, s: (a @ b.T) * s, id="from the right"),
        pytest.param(lambda a, b, s: s * a @ b.T, id="vectors first"),
        pytest.param(lambda a, b, s: (s * (a @ b.T)).T, id="turned"),
        pytest.param(lambda a, b, s: a @ b.T / (1.0 / s), id="divided"),
    ],
)
def test_learned_temperature(logits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    scale = torch.tensor(14.0, requires_grad=True)
    found = temperature(logits(a, b, scale))
    assert found is not None
    assert float(found) == pytest.approx(14.0)


def test_no_temperature() -> None:
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    assert temperature(a @ b.T) is None
    assert temperature((a * b) @ b.T) is None
