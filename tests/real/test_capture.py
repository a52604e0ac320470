"""Scripted, exported, quantised, checkpointed and functional parts, and optimizers of all kinds."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.ao import quantization
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from lightning_debug import DebugSuite
from lightning_debug.sinks.run_folder import RunFolder
from tests.real.networks import Encoder, cnn, few, images, mlp, sentences
from tests.real.twin_runs import watched
from tests.runs import Program, alarms, digits, fit, names, places, quiet_trainer
from tests.test_no_trace import attached

Adam, SGD = torch.optim.Adam, torch.optim.SGD
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]


def layer() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU())


# -- parts that other tools have made ------------------------------------------------------


def exported() -> nn.Module:
    shapes = ({0: torch.export.Dim("n")},)
    part = torch.export.export(layer(), (torch.rand(8, 64),), dynamic_shapes=shapes)
    return part.module()


class Quantised(Program):
    """A frozen part of 8 bits before the network."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.frozen = quantization.quantize_dynamic(layer(), {nn.Linear})

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            x = self.frozen(x)
        return self.net(x)


def aware(net: nn.Sequential) -> nn.Module:
    """Return a network that is trained as if it were quantised."""
    net = nn.Sequential(quantization.QuantStub(), *net, quantization.DeQuantStub())
    net.qconfig = quantization.get_default_qat_qconfig("x86")
    return quantization.prepare_qat(net.train())


# -- checkpointing and torch.func ----------------------------------------------------------


class Checkpointed(Program):
    """The middle of the network is computed again in the backward pass."""

    def __init__(self, reentrant: bool, start: int = 1, dropout: float = 0.1) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), *mlp()))
        self.reentrant, self.start = reentrant, start

    def forward(self, x: Any) -> Any:
        hidden = self.net[: self.start](x)
        hidden = checkpoint(self.net[self.start : 5], hidden, use_reentrant=self.reentrant)
        return self.net[5:](hidden)


class Segments(Checkpointed):
    """Checkpointed in two segments."""

    def forward(self, x: Any) -> Any:
        return checkpoint_sequential(self.net, 2, x.requires_grad_(), use_reentrant=self.reentrant)


class Attention(Program):
    """A transformer layer that is computed again."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__(Encoder())
        self.reentrant = reentrant

    def forward(self, ids: Any) -> Any:
        hidden = self.net.table(ids)
        hidden = checkpoint(self.net.layer, hidden, use_reentrant=self.reentrant)
        return self.net.head(hidden.mean(1))


class Functional(Program):
    """The network is called with parameters from outside."""

    def forward(self, x: Any) -> Any:
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), (x,))


class Mapped(Program):
    """The network sees one sample at a time."""

    def forward(self, x: Any) -> Any:
        return torch.func.vmap(self.net)(x)


class Ensemble(pl.LightningModule):
    """Three networks as one, with stacked parameters."""

    def __init__(self) -> None:
        super().__init__()
        members = [mlp() for _ in range(3)]
        stacked, _ = torch.func.stack_module_state(members)
        self.skeleton = [copy.deepcopy(members[0]).to("meta")]
        self.stack = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(p.detach()) for name, p in stacked.items()}
        )
        self.keys = list(stacked)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch

        def one(parameters: Any, x: Any) -> Any:
            return torch.func.functional_call(self.skeleton[0], parameters, (x,))

        stacked = {key: self.stack[key.replace(".", "_")] for key in self.keys}
        out = torch.func.vmap(one, (0, None))(stacked, x)
        return F.cross_entropy(out.flatten(0, 1), y.repeat(3))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


class FunctionalGradient(Program):
    """Gradients by ``torch.func.grad``."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch

        def loss(parameters: Any) -> Any:
            return F.cross_entropy(torch.func.functional_call(self.net, parameters, (x,)), y)

        held = dict(self.net.named_parameters())
        gradients = torch.func.grad(loss)({name: p.detach() for name, p in held.items()})
        for name, parameter in held.items():
            parameter.grad = gradients[name]
        self.optimizers().step()


# -- autograd ------------------------------------------------------------------------------


class Positive(torch.autograd.Function):
    """A ReLU by hand."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @classmethod
    def backward(cls, ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


class WrongPositive(Positive):
    """The same, with the wrong gradient."""

    @classmethod
    def backward(cls, ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * (x < 0) * x


class ByHand(Program):
    """A function with its own backward."""

    def __init__(self, function: type[Positive] = Positive) -> None:
        super().__init__(mlp())
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.net[2](self.function.apply(self.net[0](x)))


class Penalised(Program):
    """A penalty on the gradient with respect to the input."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x.requires_grad_()), y)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + 10.0 * slope.square().sum(1).mean()


class Offloaded(Program):
    """What backward needs waits on the host."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return super().training_step(batch, batch_idx)


class Tangent(Program):
    """A penalty on a slope by forward-mode differentiation."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        with forward_ad.dual_level():
            out = self(forward_ad.make_dual(x, torch.ones_like(x)))
            slope = forward_ad.unpack_dual(out).tangent
        return F.cross_entropy(self(x), y) + 1e-3 * slope.square().mean()


# -- parameters and tensors ----------------------------------------------------------------


def parametrised(rule: Any) -> Any:
    return lambda: Program(nn.Sequential(rule(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 10)))


class SparseTable(Program):
    """A table with sparse gradients and an optimizer for them."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(20, 16, sparse=True))
        self.head = nn.Linear(16, 2)
        self.automatic_optimization = False

    def forward(self, ids: Any) -> Any:
        return self.head(self.net(ids).mean(1))

    def configure_optimizers(self) -> Any:
        sparse = torch.optim.SparseAdam(self.net.parameters(), lr=1e-2)
        return sparse, Adam(self.head.parameters(), lr=1e-2)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        ids, y = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(ids), y))
        for optimizer in self.optimizers():
            optimizer.step()


class Tagged(torch.Tensor):
    """A tensor of the user's own class."""


class TaggedInput(Program):
    """Activations of the user's own class."""

    def forward(self, x: Any) -> Any:
        return self.net(x.as_subclass(Tagged))


class TaggedWeight(Program):
    """A parameter of the user's own class."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.net[0].weight = nn.Parameter(Tagged(self.net[0].weight.detach()))


class Complex(Program):
    """Complex weights and activations."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32, dtype=torch.complex64))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.net(x.to(torch.complex64)).abs())


class Jagged(Program):
    """Sequences of several lengths in a nested tensor."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(20, 16))
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, ids: Any) -> Any:
        rows = [self.net(row[: 4 + i % 8]) for i, row in enumerate(ids)]
        nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        return self.head(torch.stack([row.mean(0) for row in self.body(nested).relu().unbind()]))


class Late(pl.LightningModule):
    """Built on the meta device, and filled when the trainer asks for it."""

    def configure_model(self) -> None:
        with torch.device("meta"):
            self.net = mlp()
        self.net.to_empty(device="cpu")
        for part in (self.net[0], self.net[2]):
            part.reset_parameters()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


class Lazy(Late):
    """Its weights have no shape before the first batch."""

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(10))


class Shared(Program):
    """One layer, three times."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        for _ in range(3):
            x = self.net(x).relu()
        return self.head(x)


class Delegating(nn.Module):
    """Answers for a module that it holds, and has slots."""

    __slots__ = ("secret",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Any) -> Any:
        return self.inner(x).relu()


# -- optimizers ----------------------------------------------------------------------------


def optimized(net: Any = mlp, rule: Any = Adam, **settings: Any) -> Any:
    return lambda: Program(net(), optimizer=partial(rule, **({"lr": 1e-3} | settings)))


class Hooked(Program):
    """Somebody else listens to the steps, too."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: None)
        optimizer.register_step_post_hook(lambda optimizer, args, kwargs: None)
        return optimizer


class InBackward(Program):
    """Each parameter is stepped as soon as its gradient is there, and the gradient let go."""

    def __init__(self, known: bool, lr: float = 1e-3) -> None:
        super().__init__(mlp())
        self.automatic_optimization, self.known = False, known
        self.steppers = {p: SGD([p], lr=lr, momentum=0.9) for p in self.parameters()}
        for parameter in self.parameters():
            parameter.register_post_accumulate_grad_hook(self.step_one)

    def step_one(self, parameter: Any) -> None:
        self.steppers[parameter].step()
        self.steppers[parameter].zero_grad()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.manual_backward(loss)
        self.log("loss", loss.detach())

    def configure_optimizers(self) -> Any:
        return list(self.steppers.values()) if self.known else None


class KeepsZeros(Program):
    """Gradients are set to 0 and not to nothing."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class Averaged(Program):
    """An average of the weights, which the optimizer holds as well."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.net)


def case(make: Any, data: Any = few, *, id: str, slow: bool = False) -> Any:
    return pytest.param(make, data, id=id, marks=[pytest.mark.slow] if slow else [])


def with_part(part: Any) -> Any:
    return lambda: Program(nn.Sequential(part(), nn.Linear(64, 10)))


CASES = [
    case(with_part(lambda: torch.jit.script(layer())), id="scripted part"),
    case(
        with_part(lambda: torch.jit.trace(layer(), torch.rand(2, 64))),
        id="traced part", slow=True,
    ),
    case(lambda: Program(torch.jit.script(cnn())), images, id="scripted network"),
    case(with_part(exported), id="exported part"),
    case(lambda: Program(torch.fx.symbolic_trace(mlp())), id="traced by fx", slow=True),
    case(Quantised, id="quantised part"),
    case(lambda: Program(aware(cnn())), images, id="trained for quantisation"),
    case(lambda: Checkpointed(True), id="checkpointed, reentrant"),
    case(lambda: Checkpointed(False), id="checkpointed"),
    case(lambda: Segments(True), id="segments, reentrant", slow=True),
    case(lambda: Segments(False), id="segments", slow=True),
    case(lambda: Attention(True), sentences, id="attention, reentrant", slow=True),
    case(lambda: Attention(False), sentences, id="attention"),
    case(lambda: Functional(mlp()), id="functional call"),
    case(lambda: Mapped(mlp()), id="vmap"),
    case(Ensemble, id="ensemble"),
    case(FunctionalGradient, id="functional gradient"),
    case(ByHand, id="autograd function"),
    case(lambda: Penalised(mlp()), id="gradient penalty"),
    case(lambda: Offloaded(mlp()), id="offloaded"),
    case(lambda: Tangent(mlp()), id="forward mode", slow=True),
    case(parametrised(parametrizations.weight_norm), id="weight norm", slow=True),
    case(parametrised(parametrizations.spectral_norm), id="spectral norm", slow=True),
    case(parametrised(parametrizations.orthogonal), id="orthogonal"),
    case(parametrised(nn.utils.weight_norm), id="old weight norm", slow=True),
    case(parametrised(nn.utils.spectral_norm), id="old spectral norm", slow=True),
    case(SparseTable, sentences, id="sparse gradients"),
    case(lambda: TaggedInput(mlp()), id="own tensors"),
    case(TaggedWeight, id="own parameters"),
    case(Complex, id="complex"),
    case(Jagged, sentences, id="nested tensors"),
    case(Late, id="from the meta device"),
    case(Lazy, id="lazy"),
    case(Shared, id="shared layer"),
    case(with_part(Delegating), id="strange attributes"),
    case(optimized(fused=True), id="fused"),
    case(optimized(Encoder, fused=True), sentences, id="fused, transformer", slow=True),
    case(optimized(foreach=True), id="foreach", slow=True),
    case(optimized(foreach=False), id="one by one", slow=True),
    case(optimized(amsgrad=True), id="amsgrad", slow=True),
    case(lambda: Hooked(mlp()), id="step hooks", slow=True),
    case(lambda: InBackward(True), id="steps in backward"),
    case(lambda: InBackward(False), id="steps in backward, unknown to the trainer"),
    case(lambda: KeepsZeros(mlp()), id="zeros for gradients", slow=True),
    case(Averaged, id="average in the optimizer"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "data"), CASES)
def test_healthy(make, data):
    before = attached()
    assert alarms(watched(make, data)) == []
    assert attached() == before


@pytest.mark.parametrize(
    ("make", "data"),
    [
        case(lambda: Program(aware(cnn())), images, id="buffers that grow"),
        case(Lazy, id="lazy"),
        case(with_part(lambda: torch.jit.script(layer())), id="scripted"),
        case(lambda: InBackward(True), id="steps in backward", slow=True),
    ],
)
def test_with_pictures_and_records(make, data, tmp_path):
    suite = DebugSuite(sinks=[RunFolder()], preflight=False)
    trainer = quiet_trainer(callbacks=[suite], default_root_dir=tmp_path, max_epochs=1)
    trainer.fit(make(), data())
    assert suite.failures == {}
    assert (suite.run_folder / "run.json").is_file()


# -- bugs ----------------------------------------------------------------------------------


def test_a_reentrant_checkpoint_of_what_needs_no_gradient():
    found = fit(lambda: Checkpointed(True, start=0), few(), epochs=3)
    assert {"net.0.weight", "net.3.weight"} <= places(found, "no-gradient")
    assert "net.5.weight" not in places(found, "no-gradient")


def dying(make):
    def build():
        program = make()
        nn.init.constant_(program.net[0].bias, -100.0)
        return program

    return build


@pytest.mark.parametrize(
    ("make", "place"),
    [
        pytest.param(lambda: Checkpointed(False), "net.1", id="checkpointed"),
        pytest.param(lambda: Checkpointed(True), "net.1", id="reentrant"),
        pytest.param(lambda: Functional(mlp()), "net.1", id="functional call"),
        pytest.param(lambda: InBackward(True), "net.1", id="steps in backward"),
        pytest.param(lambda: TaggedInput(mlp()), "net.1", id="own tensors"),
    ],
)
def test_dead_units(make, place):
    suite = DebugSuite(sinks=[], select=["dead-relu"])
    assert place in places(fit(dying(make), few(), suite=suite), "dead-relu")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: Program(torch.jit.script(nn.Sequential(*mlp(), nn.Softmax(1)))), id="scripted"
        ),
        pytest.param(lambda: Functional(nn.Sequential(*mlp(), nn.Softmax(1))), id="functional"),
        pytest.param(lambda: Mapped(nn.Sequential(*mlp(), nn.Softmax(0))), id="vmap"),
    ],
)
def test_probabilities_for_logits(make):
    suite = DebugSuite(sinks=[], select=["probabilities-as-logits"])
    assert names(fit(make, few(), suite=suite)) == {"probabilities-as-logits"}


def test_a_wrong_backward():
    found = fit(lambda: ByHand(WrongPositive), few())
    assert "wrong-gradient" in names(found)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: InBackward(True, lr=100.0), id="steps in backward"),
        pytest.param(optimized(rule=SGD, lr=100.0, fused=True), id="fused"),
    ],
)
def test_a_learning_rate_that_is_too_high(make):
    found = names(fit(make, digits(n=512)))
    assert found & {"learning-rate-too-high", "update-too-large"}


# -- on a GPU ------------------------------------------------------------------------------


class Captured(Program):
    """A part of the network is replayed from a CUDA graph."""

    def on_fit_start(self) -> None:
        sample = torch.rand(32, 64, device=self.device)
        self.net = torch.cuda.make_graphed_callables(self.net, (sample,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        pytest.param(lambda: Captured(mlp()), {}, id="CUDA graph"),
        pytest.param(optimized(capturable=True), {}, id="capturable"),
        pytest.param(optimized(fused=True), {"precision": "16-mixed"}, id="fused, 16-mixed"),
    ],
)
def test_on_a_gpu(make, settings):
    assert alarms(fit(make, few(), accelerator="gpu", devices=1, **settings)) == []
