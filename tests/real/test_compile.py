"""Compiled programs: looks run eagerly, compile nothing, and see what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import DebugSuite
from tests.real.networks import Encoder, cnn, mlp
from tests.real.twin_runs import watched
from tests.runs import Program, alarms, digits, names, places, quiet_trainer, sequences

# The last batch of each is smaller.
few = partial(digits, n=272)
images = partial(digits, n=272, flat=False)
sentences = partial(sequences, n=272)
eager = partial(torch.compile, backend="eager")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    torch.compiler.set_stance("default")
    yield
    torch._dynamo.reset()
    counters.clear()


def unseen(data: Any) -> DataLoader[Any]:
    """Return validation data."""
    tensors = data(n=400, shuffle=False) if data is not sentences else data(n=400)
    return DataLoader(TensorDataset(*(t[300:] for t in tensors.dataset.tensors)), batch_size=32)


def compiled_since() -> tuple[int, int]:
    """Return how many graphs were compiled since the last call, and how many frames again."""
    found = counters["stats"]["unique_graphs"], sum(counters["recompiles"].values())
    torch._dynamo.reset()
    counters.clear()
    return found


class Plain(pl.LightningModule):
    """A program that can be compiled as a whole."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class InPlace(Plain):
    """``net.compile()``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        net.compile(backend="eager")


class Parts(Plain):
    """Each layer by itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        for name, layer in [*net.named_children()]:
            setattr(net, name, eager(layer))


class Configured(Plain):
    """Compiled in ``configure_model``."""

    def configure_model(self) -> None:
        self.net = eager(self.net)


class Step(Plain):
    """The training step as a whole."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.training_step = eager(self.training_step)


class Criterion(Plain):
    """Nothing but the loss function."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.loss = eager(F.cross_entropy)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return self.loss(self(x), y)


WAYS = {
    "the network": lambda net: Plain(eager(net)),
    "one graph": lambda net: Plain(eager(net, fullgraph=True)),
    "dynamic shapes": lambda net: Plain(eager(net, dynamic=True)),
    "the module": lambda net: eager(Plain(net)),
    "in place": InPlace,
    "each layer": Parts,
    "in configure_model": Configured,
    "the step": Step,
    "the loss": Criterion,
}
SLOW = ("one graph", "dynamic shapes", "in configure_model", "the loss")


@pytest.mark.parametrize(
    ("way", "net", "data"),
    [
        *(
            pytest.param(way, mlp, few, id=way, marks=pytest.mark.slow if way in SLOW else ())
            for way in WAYS
            if way != "in place"
        ),
        pytest.param("in place", Encoder, sentences, id="in place"),
        pytest.param("the network", cnn, images, id="CNN", marks=pytest.mark.slow),
        pytest.param("the network", Encoder, sentences, id="transformer", marks=pytest.mark.slow),
        pytest.param("each layer", cnn, images, id="CNN, each layer", marks=pytest.mark.slow),
    ],
)
def test_healthy(way, net, data):
    """Silent, without a trace, and with no more graphs than without the suite."""
    graphs = []
    suite = watched(
        lambda: WAYS[way](net()),
        data,
        validation=partial(unseen, data),
        after=lambda: graphs.append(compiled_since()),
    )
    on, bare = graphs
    assert 0 < on[0] <= bare[0]
    assert on[1] <= bare[1]
    assert alarms(suite) == []


@pytest.mark.parametrize("net", [mlp, pytest.param(Encoder, marks=pytest.mark.slow)])
def test_with_autograd_compiled(net):
    data = few if net is mlp else sentences
    make = lambda: Plain(torch.compile(net(), backend="aot_eager"))  # noqa: E731
    assert alarms(watched(make, data)) == []


class Warmed(Plain):
    """Compiles before the first look."""

    def on_fit_start(self) -> None:
        for mode in (False, True):
            self.train(mode)
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    self(torch.rand(32, 64))

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0])


def test_nothing_is_compiled_again():
    """Over looks, experiments, validation, several fits and prediction."""
    data, other = few(), unseen(few)
    graphs = []
    for callbacks in ([], [DebugSuite(sinks=[], every_n_steps=3)]):
        pl.seed_everything(3, verbose=False)
        module = Warmed(eager(mlp(), dynamic=False))
        for _ in range(2):
            quiet_trainer(callbacks=callbacks, max_epochs=3).fit(module, data, other)
        quiet_trainer(callbacks=callbacks).predict(module, other)
        graphs.append(compiled_since())
        for callback in callbacks:
            assert callback.failures == {}
    assert graphs[0] == graphs[1]
    assert graphs[0][0] > 0


def test_a_look_compiles_nothing():
    """Though every step is one, and none was compiled before."""
    suite = DebugSuite(sinks=[], every_n_steps=1, preflight=False)
    quiet_trainer(callbacks=[suite], max_epochs=1).fit(Plain(eager(mlp())), few())
    assert suite.failures == {}
    assert compiled_since() == (0, 0)


class Lengths(Plain):
    """Sequences of another length in each batch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        ids, y = batch
        return F.cross_entropy(self(ids[:, : 8 + batch_idx % 5]), y)


def test_sequences_of_many_lengths():
    make = lambda: Lengths(eager(Encoder()))  # noqa: E731
    assert alarms(watched(make, sentences)) == []


class Stepped(Plain):
    """The step of the optimizer is compiled; a look runs it eagerly."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        self.stepper()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.stepper = eager(optimizer.step)
        return optimizer


def test_a_compiled_optimizer():
    """Compiled, Adam counts its bias out in another order: equal but for rounding."""
    weights, graphs = [], []
    suite = DebugSuite(sinks=[])
    for callbacks in ([], [suite]):
        pl.seed_everything(3, verbose=False)
        module = Stepped(mlp())
        quiet_trainer(callbacks=callbacks).fit(module, few())
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        graphs.append(compiled_since())
    assert suite.failures == {}
    assert alarms(suite) == []
    assert graphs[1] == graphs[0]
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_inductor():
    """Code that it fuses rounds otherwise than eager code, and looks run eagerly."""
    weights, graphs = [], []
    suite = DebugSuite(sinks=[])
    for callbacks in ([], [suite]):
        pl.seed_everything(3, verbose=False)
        module = Plain(torch.compile(mlp()))
        quiet_trainer(callbacks=callbacks).fit(module, few())
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        graphs.append(compiled_since())
    assert suite.failures == {}
    assert alarms(suite) == []
    assert 0 < graphs[1][0] <= graphs[0][0]
    torch.testing.assert_close(*weights, atol=1e-3, rtol=1e-3)


# -- bugs --------------------------------------------------------------------------------


def dead():
    net = mlp()
    nn.init.constant_(net[0].bias, -100.0)
    return net


class Detached(nn.Module):
    """A part that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.body(x).relu().detach())


@pytest.mark.parametrize(
    ("way", "net", "bug", "place"),
    [
        pytest.param("the network", dead, "dead-relu", "net.1", id="dead, network"),
        pytest.param(
            "each layer", dead, "dead-relu", "net.1", id="dead, layers", marks=pytest.mark.slow
        ),
        pytest.param("the network", Detached, "no-gradient", "net.body.weight", id="network"),
        pytest.param("the module", Detached, "no-gradient", "net.body.weight", id="module"),
        pytest.param("the step", Detached, "no-gradient", "net.body.weight", id="step"),
        pytest.param("in place", Detached, "no-gradient", "net.body.weight", id="in place"),
    ],
)
def test_bugs_at_their_places(way, net, bug, place):
    suite = DebugSuite(sinks=[], select=[bug])
    quiet_trainer(callbacks=[suite], max_epochs=2).fit(WAYS[way](net()), few())
    assert suite.failures == {}
    assert place in places(suite, bug)


@pytest.mark.parametrize("way", ["the network", "the step", "the loss"])
def test_bugs_in_the_loss(way):
    suite = DebugSuite(sinks=[])
    module = WAYS[way](nn.Sequential(*mlp(), nn.Softmax(1)))
    quiet_trainer(callbacks=[suite], max_epochs=2).fit(module, few())
    assert "probabilities-as-logits" in names(suite)


def test_a_learning_rate_that_is_too_high():
    suite = DebugSuite(sinks=[])
    module = Program(eager(mlp()), optimizer=partial(torch.optim.SGD, lr=30.0))
    quiet_trainer(callbacks=[suite], max_epochs=2).fit(module, few())
    assert "learning-rate-too-high" in names(suite)
