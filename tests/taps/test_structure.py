from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_debug.picture import Network, Node
from lightning_debug.taps import drawing
from lightning_debug.taps.drawing import Drawing, joined
from tests.drawn import drawn, network
from tests.runs import Program, digits, sequences


class Step(Program):
    """Trains a network on rows of numbers, in a way of its own."""

    def __init__(self, net, **parts):
        super().__init__(net)
        for name, part in parts.items():
            setattr(self, name, part)


def of(module, data=None, **settings):
    return network(drawn(lambda: module, data or digits(n=64), **settings))


def edges(found):
    return set(found.edges)


def node(found, name):
    return next(n for n in found.nodes if n.name == name)


def names(found, role="module"):
    return [n.name for n in found.nodes if n.role == role]


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def test_a_chain():
    found = of(Program(mlp()))
    assert found.step == 0
    assert found.more == 0
    assert [(n.name, n.kind, n.shape) for n in found.nodes] == [
        ("batch[0]", "input", (32, 64)),
        ("batch[1]", "input", (32,)),
        ("net.0", "Linear", (32, 32)),
        ("net.1", "ReLU", (32, 32)),
        ("net.2", "Linear", (32, 10)),
        ("training_step > cross_entropy", "cross_entropy", ()),
        ("loss", "loss", ()),
    ]
    assert found.edges == (
        ("batch[0]", "net.0"),
        ("net.0", "net.1"),
        ("net.1", "net.2"),
        ("net.2", "training_step > cross_entropy"),
        ("batch[1]", "training_step > cross_entropy"),
        ("training_step > cross_entropy", "loss"),
    )


def test_what_a_box_owns():
    net = mlp()
    net[0].weight.requires_grad_(False)
    found = node(of(Program(net)), "net.0")
    assert found == Node(
        name="net.0",
        kind="Linear",
        shape=(32, 32),
        input_shape=(32, 64),
        parameters=64 * 32 + 32,
        trainable=32,
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 64)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        inside = self.act(self.inner(x.view(-1, 64)))
        x = x + inside
        return self.head(x)


def test_a_shortcut_is_a_join():
    found = of(Program(Residual()))
    assert names(found, "function") == ["net > add", "training_step > cross_entropy"]
    assert edges(found) >= {
        ("batch[0]", "net > add"),
        ("net.inner", "net.act"),
        ("net.act", "net > add"),
        ("net > add", "net.head"),
    }
    assert node(found, "net > add").shape == (32, 64)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x):
        both = torch.zeros(2, len(x), 10)
        both[0] = self.one(x)
        both[1].add_(self.two(x))
        return both.sum(0)


def test_writing_into_a_tensor_and_into_a_view_of_it():
    found = of(Program(InPlace()))
    assert ("net.one", "net > add") in edges(found)
    assert ("net.two", "net > add") in edges(found)
    assert ("net > add", "training_step > cross_entropy") in edges(found)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.twice(self.twice(x).relu()))


def test_a_shared_module_is_one_box():
    found = of(Program(Shared()))
    assert names(found) == ["net.twice", "net.head"]
    assert node(found, "net.twice").calls == 2
    assert ("net.twice", "net.twice") not in edges(found)


class Loose(nn.Module):
    """Weights of its own, used outside of any layer."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(64))
        self.weight = nn.Parameter(torch.randn(64, 10) / 8)
        self.norm = nn.LayerNorm(64)

    def forward(self, x):
        return self.norm(x + self.position) @ self.weight


def test_loose_parameters_belong_to_a_box_of_their_module():
    found = of(Program(Loose()))
    assert node(found, "net").parameters == 64 + 640
    assert node(found, "net").kind == "Loose"
    assert node(found, "net").calls == 1
    assert edges(found) >= {("batch[0]", "net"), ("net", "net.norm"), ("net.norm", "net")}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids):
        return F.linear(self.embedding(ids).mean(1), self.embedding.weight)


def test_the_weight_of_a_layer_used_elsewhere():
    found = of(Program(Tied()), sequences(n=64))
    assert node(found, "net.embedding").calls == 1
    assert ("net.embedding", "net > linear") in edges(found)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(20, 8), nn.GRUCell(8, 8)
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, ids):
        x = self.embed(ids)
        hidden = gate = torch.zeros(len(ids), 8)
        for t in range(x.shape[1]):
            hidden = self.cell(x[:, t], hidden)
            gate = torch.tanh(self.one(gate) + self.two(hidden)) * gate + hidden
        return self.head(gate)


def test_a_loop_does_not_explode():
    found = of(Program(Recurrent()), sequences(n=64, length=120))
    assert node(found, "net.cell").calls == 120
    assert len(found.nodes) < 3 * drawing.MOST_JOINS
    assert ("net.embed", "net.cell") in edges(found)


@dataclass
class Pair:
    first: torch.Tensor
    rest: dict


class Structured(Step):
    """A dictionary goes in, a dataclass comes out of a module, a tuple of another."""

    def training_step(self, batch, batch_idx):
        out = self.net({"x": batch[0]})
        loss = F.cross_entropy(out.first, batch[1])
        return {"loss": loss + 0.1 * out.rest["aux"].square().mean()}


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.split = Split()
        self.head, self.aux = nn.Linear(32, 10), nn.Linear(32, 1)

    def forward(self, batch):
        left, right = self.split(batch)
        return Pair(self.head(left), {"aux": self.aux(right)})


class Split(nn.Module):
    def forward(self, batch):
        return tuple(batch["x"].chunk(2, dim=1))


def test_nested_inputs_and_outputs():
    found = of(Structured(Dictionary()))
    assert edges(found) >= {
        ("batch[0]", "net.split"),
        ("net.split", "net.head"),
        ("net.split", "net.aux"),
        ("net.aux", "training_step > add"),
        ("training_step > cross_entropy", "training_step > add"),
        ("training_step > add", "loss"),
    }


class Logged(Step):
    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        self.log("accuracy", (logits.argmax(1) == batch[1]).float().mean())
        return F.cross_entropy(logits, batch[1])


def test_what_is_computed_for_a_log_is_left_out():
    assert names(of(Logged(mlp())), "function") == ["training_step > cross_entropy"]


class Frozen(Step):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            features = self.backbone(batch[0])
        return F.cross_entropy(self.net(features), batch[1])


def test_modules_without_gradients():
    found = of(Frozen(nn.Linear(32, 10), backbone=nn.Linear(64, 32)))
    assert ("backbone", "net") in edges(found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_part(reentrant):
    class Checkpointed(Step):
        def forward(self, x):
            hidden = checkpoint(self.net[:2], x.requires_grad_(), use_reentrant=reentrant)
            return self.net[2](hidden)

    found = of(Checkpointed(mlp()))
    assert node(found, "net.0").calls == 1
    assert edges(found) >= {("net.0", "net.1"), ("net.1", "net.2")}


class Manual(Step):
    def __init__(self, *args, **parts):
        super().__init__(*args, **parts)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for head in (self.one, self.two):
            self.manual_backward(F.cross_entropy(head(self.net(batch[0])), batch[1]))
        optimizer.step()


def test_several_backward_passes():
    found = of(Manual(nn.Linear(64, 8), one=nn.Linear(8, 10), two=nn.Linear(8, 10)))
    assert node(found, "loss").calls == 2
    assert node(found, "net").calls == 2
    lossy = [source for source, target in found.edges if target == "loss"]
    assert lossy == ["training_step > cross_entropy", "training_step > cross_entropy 2"]


def test_a_compiled_model():
    found = of(Program(torch.compile(mlp(), backend="eager")))
    assert ("net._orig_mod.0", "net._orig_mod.1") in edges(found)


def test_a_parametrized_layer():
    net = mlp()
    nn.utils.parametrizations.weight_norm(net[0])
    found = of(Program(net))
    assert ("batch[0]", "net.0") in edges(found)
    assert ("net.0", "net.1") in edges(found)


def test_attention_is_one_box():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            x = x.view(-1, 8, 8)
            return self.head(self.attention(x, x, value=x)[0].mean(1))

    found = of(Program(Attending()))
    assert names(found) == ["net.attention", "net.head"]
    assert node(found, "net.attention").parameters == 4 * 8 * 8 + 4 * 8
    assert ("net.attention", "net.head") in edges(found)


def test_a_criterion_called_loss_does_not_hide_the_loss():
    class Named(Program):
        def __init__(self):
            super().__init__(mlp(), loss=nn.CrossEntropyLoss())

    found = of(Named())
    assert edges(found) >= {("net.2", "loss"), ("batch[1]", "loss"), ("loss", "loss (2)")}


class Late(Step):
    """Another part runs from the third step on."""

    def training_step(self, batch, batch_idx):
        x = batch[0]
        if self.global_step >= 2:
            x = self.extra(x)
        return F.cross_entropy(self.net(x), batch[1])


def test_it_is_drawn_once():
    pictures = drawn(lambda: Program(mlp()), digits(n=256), steps=8)
    assert sum(isinstance(p, Network) for p in pictures) == 1


def test_it_is_drawn_again_when_other_modules_run():
    pictures = drawn(lambda: Late(mlp(), extra=nn.Linear(64, 64)), digits(n=256), steps=8)
    first, second = (p for p in pictures if isinstance(p, Network))
    assert "extra" not in names(first)
    assert (second.step, names(second)[0]) == (3, "extra")
    assert ("extra", "net.0") in edges(second)


def test_there_are_at_most_so_many_boxes(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_NODES", 4)
    found = of(Program(mlp()))
    assert len(found.nodes) == 4
    assert found.more == 3


def test_two_steps_are_joined():
    old = Network(nodes=(Node(name="a", kind="A"),), edges=(("a", "a2"),))
    new = Network(step=5, nodes=(Node(name="b", kind="B"),), edges=())
    both = joined(old, new)
    assert [n.name for n in both.nodes] == ["b", "a"]
    assert (both.step, both.edges) == (5, ())


def test_a_failure_of_ours_is_contained(monkeypatch):
    def fail(*args):
        raise RuntimeError("ours")

    monkeypatch.setattr(Drawing, "network", fail)
    with pytest.raises(AssertionError, match="the tap on the structure"):
        drawn(lambda: Program(mlp()), digits(n=64))


def test_hostile_names_are_data():
    class Hostile(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module('<script>alert("1")</script>\x1b[31m', nn.Linear(64, 10))

        def forward(self, x):
            return next(self.children())(x)

    [name] = names(of(Program(Hostile())))
    assert name == 'net.<script>alert("1")</script>\x1b[31m'
