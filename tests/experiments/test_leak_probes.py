"""What the experiments on the use of inputs say of small models, without a trainer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.experiments.future import future
from lightning_debug.experiments.inputs import inputs
from lightning_debug.experiments.mixing import mixing
from lightning_debug.experiments.padding import padding
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.observation import IgnoredInput


class Step(nn.Module):
    """A training step around a net."""

    def __init__(self, net, forward=None):
        super().__init__()
        self.net = net
        self.way = forward

    def forward(self, x):
        return self.way(self.net, x) if self.way else self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x), y)


class Tokens(nn.Module):
    """Predicts the next token by attention, with a mask or padding mask."""

    def __init__(self, *, causal=True, pad=False):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 9)
        self.causal, self.pad = causal, pad

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        x = ids[:, :-1]
        h = self.embed(x)
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        h, _ = self.attend(
            h,
            h,
            h,
            attn_mask=ahead if self.causal else None,
            key_padding_mask=x == 0 if self.pad else None,
        )
        return F.cross_entropy(self.head(h).flatten(0, 1), ids[:, 1:].flatten())


def table():
    torch.manual_seed(0)
    return torch.randn(16, 8), torch.randn(16, 1)


def tokens(*, padded=False):
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (16, 12))
    if padded:
        ids[torch.arange(12) >= torch.arange(16)[:, None] % 8 + 4] = 0
    return (ids,)


def probed(probe, model, batch, size=16):
    loader = SimpleNamespace(batch_size=size, dataset=range(64))
    model.__dict__["_trainer"] = SimpleNamespace(train_dataloader=loader)
    replica = Replica(model)
    with replica.working():
        return probe(replica, batch, step=3, epoch=1)


def linear():
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))


@pytest.mark.parametrize(
    ("forward", "mixed"),
    [
        pytest.param(None, False, id="by sample"),
        pytest.param(lambda net, x: net(x).flip(0), True, id="flipped"),
        pytest.param(lambda net, x: net(x).cumsum(0), True, id="cumulated"),
        pytest.param(lambda net, x: net(x) - net(x).mean(0), True, id="centred"),
        pytest.param(lambda net, x: net(x.repeat(2, 1))[: len(x)], False, id="repeated"),
        pytest.param(
            lambda net, x: net(F.batch_norm(x, None, None, training=True)), False, id="batch norm"
        ),
    ],
)
def test_mixing(forward, mixed) -> None:
    obs = probed(mixing, Step(linear(), forward), table())
    assert bool(obs.outputs) is mixed
    assert (obs.step, obs.epoch, obs.samples) == (3, 1, 6)
    if mixed:
        assert obs.outputs[0].place == "model"


def test_mixing_needs_samples() -> None:
    x, y = table()
    with pytest.raises(NotApplicableError, match="not made of samples"):
        probed(mixing, Step(linear()), (x, y[:5]))
    with pytest.raises(NotApplicableError, match="too few"):
        probed(mixing, Step(linear()), (x[:1], y[:1]), size=1)


def test_future() -> None:
    assert not probed(future, Tokens(), tokens()).leaks
    (leak,) = probed(future, Tokens(causal=False), tokens()).leaks
    assert (leak.kind, leak.source, leak.shift, leak.place) == ("future", "batch[0]", 1, "attend")


def test_padding() -> None:
    assert not probed(padding, Tokens(pad=True), tokens(padded=True)).outputs
    assert not probed(padding, Tokens(), tokens(padded=True)).outputs
    obs = probed(padding, Tokens(causal=False), tokens(padded=True))
    assert [output.place for output in obs.outputs] == ["attend"]
    assert (obs.source, obs.length, obs.longest) == ("batch[0]", 12, 5)
    with pytest.raises(NotApplicableError, match="padding"):
        probed(padding, Tokens(), tokens())


@pytest.mark.parametrize(
    ("forward", "ignored"),
    [
        pytest.param(None, (), id="all is used"),
        pytest.param(
            lambda net, x: net(x * (torch.arange(8) < 5)),
            (IgnoredInput(source="batch[0]", part="columns", first=5, last=7, size=8),),
            id="columns",
        ),
        pytest.param(
            lambda net, x: net(torch.ones_like(x)), (IgnoredInput(source="x"),), id="nothing"
        ),
        pytest.param(lambda net, x: net(x + (x.round() - x).detach()), (), id="rounded"),
        pytest.param(lambda net, x: net(x * (torch.arange(8) != 3)), (), id="one column less"),
    ],
)
def test_inputs(forward, ignored) -> None:
    assert probed(inputs, Step(linear(), forward), table()).ignored == ignored
