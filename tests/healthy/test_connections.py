"""Healthy training of networks that hide, copy, tie, clear and accumulate on purpose."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.runs import Program, alarms, digits, fit, quiet_trainer, sequences


def mlp(out=10):
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, out))


class Perceptual(Program):
    """An autoencoder judged by a frozen network that is hidden so that it is not saved."""

    def __init__(self, freeze):
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
        super().__init__(net)
        judge = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        self.judges = [judge.eval() if freeze == "eval" else judge.requires_grad_(False)]

    def training_step(self, batch, batch_idx):
        x, _ = batch
        out = self(x)
        return F.mse_loss(out, x) + 0.1 * F.mse_loss(self.judges[0](out), self.judges[0](x))


class HiddenTeacher(Program):
    """A mean teacher in a list: moved by averaging; its output takes part without gradients."""

    def __init__(self):
        super().__init__(mlp())
        self.teacher = [copy.deepcopy(self.net)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        with torch.no_grad():
            soft = self.teacher[0](x).softmax(1)
            for mine, theirs in zip(
                self.teacher[0].parameters(), self.net.parameters(), strict=True
            ):
                mine.lerp_(theirs, 0.05)
        return F.cross_entropy(out, y) + 0.1 * F.cross_entropy(out, soft)


class FirstOrderMaml(pl.LightningModule):
    """A copy of the network for each task, adapted and thrown away."""

    def __init__(self, inner):
        super().__init__()
        self.automatic_optimization = False
        self.net, self.inner = mlp(), inner

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        fast = copy.deepcopy(self.net)
        if self.inner == "noise":
            with torch.no_grad():
                for p in fast.parameters():
                    p.add_(0.1 * p.std() * torch.randn_like(p))
        if self.inner == "optimizer":
            inner = optim.SGD(fast.parameters(), lr=0.05)
            inner.zero_grad()
            F.cross_entropy(fast(x[:16]), y[:16]).backward()
            inner.step()
        elif self.inner == "grad":
            slopes = torch.autograd.grad(F.cross_entropy(fast(x[:16]), y[:16]), fast.parameters())
            for p, slope in zip(fast.parameters(), slopes, strict=True):
                p.data.sub_(0.05 * slope)
        fast.zero_grad()
        optimizer.zero_grad()
        loss = F.cross_entropy(fast(x[16:]), y[16:])
        self.manual_backward(loss)
        for p, q in zip(self.net.parameters(), fast.parameters(), strict=True):
            p.grad = q.grad.clone()
        optimizer.step()
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.net.parameters(), lr=1e-3)


class Hyper(Program):
    """A small network makes the weights of another one."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 650)))
        nn.init.normal_(self.net[2].weight, std=0.02)
        self.code, self.base = nn.Parameter(torch.randn(4)), [nn.Linear(64, 10)]

    def training_step(self, batch, batch_idx):
        x, y = batch
        weights = self.net(self.code)
        made = {"weight": weights[:640].view(10, 64), "bias": weights[640:]}
        return F.cross_entropy(torch.func.functional_call(self.base[0], made, (x,)), y)


class BuiltInStep(Program):
    """Losses, activations and norms without weights, built where they are used."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = nn.Dropout(0.1)(nn.LayerNorm(64, elementwise_affine=False)(x))
        probabilities = nn.LogSoftmax(dim=1)(self.net(x))
        return nn.NLLLoss()(probabilities, y)


class Adversarial(Program):
    """A perturbation that is a Parameter of the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        delta = nn.Parameter(torch.zeros_like(x).uniform_(-0.01, 0.01))
        (slope,) = torch.autograd.grad(F.cross_entropy(self(x + delta), y), delta)
        return F.cross_entropy(self(x + 0.02 * slope.sign()), y)


class Pgd(Program):
    """The input itself is the parameter, for some steps of an optimizer of its own."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        attacked = nn.Parameter(x.clone())
        inner = optim.SGD([attacked], lr=0.1)
        for _ in range(2):
            inner.zero_grad()
            (-F.cross_entropy(self(attacked), y)).backward()
            inner.step()
        self.zero_grad()
        return F.cross_entropy(self(attacked.detach()), y)


class Alias(nn.Module):
    """Registered layers that are held in a list and a closure as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)
        self.order = [self.first, nn.ReLU(), self.second]
        self.run = lambda x: self.second(F.relu(self.first(x)))

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


class Extractor(Program):
    """A second LightningModule, frozen, hidden from the checkpoint."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)))
        features = Program(nn.Sequential(nn.Linear(64, 32), nn.ReLU()))
        features.freeze()
        object.__setattr__(self, "features", features)

    def forward(self, x):
        return self.net(self.features(x))


def normed():
    net = mlp()
    net[0] = parametrizations.weight_norm(net[0])
    net[2] = parametrizations.spectral_norm(net[2])
    return Program(net)


def compiled():
    net = mlp()
    model = Program(net)
    model.fast = torch.compile(net, backend="eager")
    model.forward = model.fast
    return model


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: Perceptual("frozen"), id="perceptual loss, frozen"),
        pytest.param(lambda: Perceptual("eval"), id="perceptual loss, in eval mode"),
        pytest.param(HiddenTeacher, id="mean teacher in a list"),
        pytest.param(lambda: FirstOrderMaml("optimizer"), id="inner optimizer"),
        pytest.param(lambda: FirstOrderMaml("grad"), id="inner update by hand"),
        pytest.param(lambda: FirstOrderMaml("none"), id="gradients of a copy"),
        pytest.param(lambda: FirstOrderMaml("noise"), id="gradients of a noisy copy"),
        pytest.param(Hyper, id="hypernetwork"),
        pytest.param(lambda: BuiltInStep(mlp()), id="criteria built in the step"),
        pytest.param(lambda: Adversarial(mlp()), id="adversarial parameter"),
        pytest.param(lambda: Pgd(mlp()), id="attacked input"),
        pytest.param(lambda: Program(Alias()), id="registered and listed"),
        pytest.param(Extractor, id="hidden frozen module"),
        pytest.param(normed, id="weight norm and spectral norm"),
        pytest.param(compiled, id="compiled"),
    ],
)
def test_hidden_on_purpose(program):
    assert alarms(fit(program, digits())) == []


class Steps(pl.LightningModule):
    """Manual optimization of one network."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.automatic_optimization = False
        self.net = mlp()
        self.optimizer = optimizer or (lambda ps: optim.SGD(ps, lr=0.02))

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class ClearedAtTheEnd(Steps):
    def __init__(self, *, to_none):
        super().__init__()
        self.to_none = to_none

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=self.to_none)
        return loss


class ClearedByHand(Steps):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        for p in self.parameters():
            p.grad = None
        self.manual_backward(loss)
        optimizer.step()
        return loss


class TwoLosses(Steps):
    """Two backward passes for one step, and clipping."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.manual_backward(0.01 * sum(p.square().sum() for p in self.parameters()))
        self.clip_gradients(optimizer, gradient_clip_val=0.5)
        optimizer.step()


class Closure(Steps):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)


class SlowAndFast(pl.LightningModule):
    """One loss; the body makes a step for every third batch of the head, with the mean of them."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.body, self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        slow, fast = self.optimizers()
        self.manual_backward(F.cross_entropy(self.head(self.body(x)), y))
        fast.step()
        fast.zero_grad()
        if (batch_idx + 1) % 3 == 0:
            slow.step()
            slow.zero_grad()

    def configure_optimizers(self):
        return (
            optim.SGD(self.body.parameters(), lr=0.01),
            optim.SGD(self.head.parameters(), lr=0.03),
        )


class SharedTrunk(pl.LightningModule):
    """Two tasks one after the other; the trunk is moved once, by both."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.trunk = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.digit, self.parity = nn.Linear(32, 10), nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        trunk, digit, parity = self.optimizers()
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.digit(self.trunk(x)), y))
        digit.step()
        self.manual_backward(F.cross_entropy(self.parity(self.trunk(x)), y % 2))
        parity.step()
        trunk.step()

    def configure_optimizers(self):
        parts = (self.trunk, self.digit, self.parity)
        return tuple(optim.Adam(part.parameters(), lr=1e-3) for part in parts)


class Gan(pl.LightningModule):
    def __init__(self, kind):
        super().__init__()
        self.automatic_optimization = False
        self.kind = kind
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g, d = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        if self.kind == "joint":
            self.joint(real, fake, g, d)
            return
        d.zero_grad()
        self.manual_backward(F.softplus(-self.critic(real)).mean())
        given = fake if self.kind == "not detached" else fake.detach()
        retain = self.kind == "not detached"
        self.manual_backward(F.softplus(self.critic(given)).mean(), retain_graph=retain)
        d.step()
        if self.kind == "frozen":
            self.critic.requires_grad_(False)
        if self.kind == "rare" and batch_idx % 4:
            return
        g.zero_grad()
        fake = self.generator(torch.randn(len(real), 8))
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        g.step()
        self.critic.requires_grad_(True)

    def joint(self, real, fake, g, d):
        """One backward for both: each part gets its own loss through the other's stand-in."""
        frozen = copy.deepcopy(self.critic).requires_grad_(False)
        loss = F.softplus(-frozen(fake)).mean() + F.softplus(-self.critic(real)).mean()
        loss = loss + F.softplus(self.critic(fake.detach())).mean()
        g.zero_grad()
        d.zero_grad()
        self.manual_backward(loss)
        g.step()
        d.step()

    def configure_optimizers(self):
        return (
            optim.Adam(self.generator.parameters(), lr=2e-4),
            optim.Adam(self.critic.parameters(), lr=2e-4),
        )


class Thawing(Program):
    """A part that is frozen half-way keeps its last gradients."""

    def __init__(self):
        super().__init__(mlp())

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 6:
            self.net[0].requires_grad_(False)

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        for p in self.parameters():
            if p.requires_grad:
                p.grad = None

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.02)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: ClearedAtTheEnd(to_none=True), id="cleared at the end"),
        pytest.param(lambda: ClearedAtTheEnd(to_none=False), id="set to zero"),
        pytest.param(ClearedByHand, id="cleared by hand"),
        pytest.param(TwoLosses, id="two backward passes for a step"),
        pytest.param(Closure, id="closure"),
        pytest.param(
            lambda: Closure(lambda ps: optim.LBFGS(ps, lr=0.05, max_iter=4)), id="LBFGS by hand"
        ),
        pytest.param(SlowAndFast, id="two rates of steps"),
        pytest.param(SharedTrunk, id="a trunk of two tasks"),
        pytest.param(lambda: Gan("plain"), id="gan, real and fake apart"),
        pytest.param(lambda: Gan("not detached"), id="gan, not detached"),
        pytest.param(lambda: Gan("frozen"), id="gan, critic frozen for the generator"),
        pytest.param(lambda: Gan("rare"), id="gan, generator steps rarely"),
        pytest.param(lambda: Gan("joint"), id="gan, one backward"),
        pytest.param(Thawing, id="frozen with its gradients"),
    ],
)
def test_gradients_cleared_in_their_own_way(program):
    assert alarms(fit(program, digits())) == []


class Accumulated(Steps):
    """The mean over several batches, made in one way or another."""

    def __init__(self, how, every=4):
        super().__init__()
        self.how, self.every, self.count = how, every, 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        out = self.net(x)
        loss = F.cross_entropy(out, y, reduction="sum" if "sum" in self.how else "mean")
        if self.how == "sum over count":
            loss = loss / (len(x) * self.every)
        if self.how == "tensor":
            loss = loss / torch.tensor(float(self.every))
        self.count += len(x)
        self.manual_backward(loss)
        if (batch_idx + 1) % self.every:
            return
        if self.how == "gradients":
            for p in self.parameters():
                p.grad /= self.every
        if self.how == "sum, gradients":
            for p in self.parameters():
                p.grad /= self.count
        if self.how == "clipped":
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad()
        self.count = 0


class Chunks(Steps):
    """One batch in pieces, each with its share."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for one, other in zip(x.chunk(4), y.chunk(4), strict=True):
            self.manual_backward(self.loss((one, other)) * len(one) / len(x))
        optimizer.step()


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(lambda: Accumulated("gradients"), id="gradients divided"),
        pytest.param(lambda: Accumulated("sum, gradients"), id="sum, gradients divided"),
        pytest.param(lambda: Accumulated("sum over count"), id="sum over the count"),
        pytest.param(lambda: Accumulated("tensor"), id="divided by a tensor"),
        pytest.param(lambda: Accumulated("clipped"), id="clipped to a norm"),
        pytest.param(lambda: Accumulated("mean", every=1), id="every batch"),
        pytest.param(Chunks, id="one batch in pieces"),
    ],
)
def test_accumulation(program):
    assert alarms(fit(program, digits())) == []


def test_automatic_accumulation():
    assert alarms(fit(lambda: Program(mlp()), digits(), accumulate_grad_batches=4)) == []


class Words(pl.LightningModule):
    """A model of token sequences, with an output layer of the shape of its table."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 20, bias=False)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        nn.init.normal_(self.table.weight, std=0.1)
        if kind in ("tied", "compiled"):
            self.head.weight = self.table.weight
        if kind == "zeros":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.table.weight)
        if kind == "frozen copy":
            self.head.weight = nn.Parameter(self.table.weight.detach().clone())
            self.table.requires_grad_(False)
        if kind == "teacher":
            self.teacher = copy.deepcopy(self.table).requires_grad_(False)
        if kind == "compiled":
            self.run = torch.compile(self.body, backend="eager")

    def configure_model(self):
        if self.kind == "tied in configure_model":
            self.head.weight = self.table.weight

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        body = self.run if self.kind == "compiled" else self.body
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        hidden = body(self.table(ids), mask, is_causal=True)
        loss = F.cross_entropy(self.head(hidden[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        if self.kind == "teacher":
            with torch.no_grad():
                self.teacher.weight.lerp_(self.table.weight, 0.1)
            loss = loss + 0.1 * F.mse_loss(self.table(ids), self.teacher(ids))
        return loss

    def configure_optimizers(self):
        return optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-3)


class Siamese(Program):
    """Two towers that start as copies and are trained apart."""

    def __init__(self):
        super().__init__(mlp(16))
        self.other, self.head = copy.deepcopy(self.net), nn.Linear(16, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.net(x) * self.other(x.flip(1))), y)


@pytest.mark.parametrize(
    "kind",
    ["tied", "compiled", "zeros", "frozen copy", "teacher", "tied in configure_model", "apart"],
)
def test_ties(kind):
    suite = fit(lambda: Words(kind), sequences(), epochs=1)
    # Tables of zeros have no gradient at first; that is not what this is about.
    assert [a for a in alarms(suite) if kind != "zeros" or "tied" in a] == []


def test_towers_that_start_as_copies():
    assert alarms(fit(Siamese, digits())) == []


def test_resumed_with_ties(tmp_path):
    saved = tmp_path / "last.ckpt"
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=4)
    trainer.fit(Words("tied"), sequences())
    trainer.save_checkpoint(saved)
    assert alarms(fit(lambda: Words("tied"), sequences(), resume=saved)) == []


class BetweenEpochs(Program):
    """Something touches the weights when an epoch begins."""

    def __init__(self, how):
        super().__init__(mlp(), optimizer=lambda ps: optim.Adam(ps, lr=1e-3))
        self.how = how
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.probe = nn.Linear(32, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net[:2](x)
        loss = F.cross_entropy(self.net[2](hidden), y)
        return loss + F.cross_entropy(self.probe(hidden.detach()), y)

    @torch.no_grad()
    def on_train_epoch_start(self):
        if self.how == "probe":
            self.probe.reset_parameters()
        elif self.how == "clamped":
            for p in self.net.parameters():
                p.clamp_(-0.15, 0.15)
        elif self.how == "normalised":
            for p in self.net.parameters():
                if p.ndim > 1:
                    p.div_(p.norm(dim=1, keepdim=True))
        elif self.how == "averaged":
            for mine, theirs in zip(self.net.parameters(), self.average.parameters(), strict=True):
                theirs.lerp_(mine, 0.5)
                mine.copy_(theirs)
        elif self.how == "best":  # the second epoch stays the best one
            if self.current_epoch < 2:
                self.best = copy.deepcopy(self.net.state_dict())
            self.net.load_state_dict(self.best)
        elif self.how == "once" and self.current_epoch == 1:
            for layer in self.net:
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()


@pytest.mark.parametrize("how", ["probe", "clamped", "normalised", "averaged", "once", "best"])
def test_weights_touched_between_epochs(how):
    suite = fit(lambda: BetweenEpochs(how), digits(), epochs=4, limit_train_batches=12)
    assert alarms(suite) == []


@pytest.mark.parametrize(
    "callback",
    [
        pytest.param(
            lambda: pl.callbacks.ModelPruning("random_unstructured", amount=0.1), id="pruning"
        ),
        pytest.param(
            lambda: pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=0.5), id="SWA"
        ),
        pytest.param(lambda: pl.callbacks.EMAWeightAveraging(decay=0.9), id="moving average"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_callbacks_that_touch_the_weights(callback):
    suite = fit(
        lambda: Program(mlp()),
        digits(),
        epochs=4,
        limit_train_batches=12,
        callbacks=(callback(),),
    )
    assert alarms(suite) == []


class Layerwise(Program):
    """Layers are frozen one after the other, from the front."""

    def __init__(self, frozen=0):
        super().__init__(
            nn.Sequential(
                nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
            )
        )
        self.net[:frozen].requires_grad_(False)

    def on_train_epoch_start(self):
        self.net[: 2 * self.current_epoch].requires_grad_(False)


def test_layers_frozen_one_by_one():
    assert alarms(fit(Layerwise, digits(), epochs=3, limit_train_batches=12)) == []


def test_resumed_with_a_part_that_was_always_frozen(tmp_path):
    class Frozen(Program):
        def __init__(self):
            super().__init__(mlp())
            self.net[0].requires_grad_(False)

    saved = tmp_path / "last.ckpt"
    pl.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=8)
    trainer.fit(Frozen(), digits())
    trainer.save_checkpoint(saved)
    assert alarms(fit(Frozen, digits(), resume=saved)) == []


class Skipping(Program):
    """Every third batch is left out, and so are the first ones."""

    def training_step(self, batch, batch_idx):
        if batch_idx < 3 or batch_idx % 3 == 0:
            return None
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_batches_left_out():
    assert alarms(fit(lambda: Skipping(mlp()), digits())) == []
