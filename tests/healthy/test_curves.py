"""Loss curves that only look bad."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression, sequences

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=3e-3)


def mlp(inputs: int = 64, outputs: int = 10, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip


class Validated(Program):
    """Returns its validation loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x), y)


class RescaledValidation(Program):
    """Validation is in other units than training."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 1e4 * F.mse_loss(self(x), y)


class NoisyValidation(Validated):
    """The validation loss is an estimate from a few samples."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss(self(x[:3]), y[:3])


class Gan(pl.LightningModule):
    """Two optimizers against each other."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp(8, 2, 32), mlp(2, 1, 32)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0][:, :2]
        first, second = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        bce = F.binary_cross_entropy_with_logits
        loss = bce(self.critic(real), ones) + bce(self.critic(fake.detach()), zeros)
        second.zero_grad()
        self.manual_backward(loss)
        second.step()
        first.zero_grad()
        self.manual_backward(bce(self.critic(fake), ones))
        first.step()

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
            torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        )


class Critic(Program):
    """A Wasserstein critic alone: its loss falls below zero without bound."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        real = batch[0]
        return (self.net(torch.rand_like(real)) - self.net(real)).mean()


class ValueLearning(Program):
    """Temporal differences: the model makes its targets, and they grow."""

    def __init__(self) -> None:
        super().__init__(mlp(8, 1), optimizer=partial(torch.optim.Adam, lr=1e-3))
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state = batch[0]
        if batch_idx % 8 == 0:
            self.target.load_state_dict(self.net.state_dict())
        with torch.no_grad():
            target = 1.0 + state[:, :1] + 0.99 * self.target(state.roll(1, 0))
        return F.mse_loss(self.net(state), target)


class Returns(Program):
    """Actor and critic on returns that grow a hundredfold as the agent gets better."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        state = batch[0]
        growth = 1.0 + 0.1 * self.global_step
        returns = growth * (5.0 + state.sum(1, keepdim=True))
        return F.mse_loss(self.net(state), returns)


class SimClr(Program):
    """Contrastive: chance is ln N, and the labels tell samples apart."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        one = F.normalize(self.net(x + 0.5 * torch.randn_like(x)), dim=1)
        other = F.normalize(self.net(x + 0.5 * torch.randn_like(x)), dim=1)
        return F.cross_entropy(one @ other.T, torch.arange(len(x)))


class Moco(Program):
    """Contrastive against a queue: the right class is always the first."""

    def __init__(self) -> None:
        super().__init__(mlp(outputs=16))
        self.register_buffer("queue", F.normalize(torch.randn(256, 16), dim=1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        query = F.normalize(self.net(x), dim=1)
        with torch.no_grad():
            key = F.normalize(self.net(x + 0.3 * torch.randn_like(x)), dim=1)
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ self.queue.T], dim=1) / 0.5
        self.queue = torch.cat([key, self.queue])[:256]
        return F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))


class Diffusion(Program):
    """Predicts the noise; at high noise the loss hardly falls."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        noise, level = torch.randn_like(x), torch.rand(len(x), 1)
        noisy = level.sqrt() * x + (1 - level).sqrt() * noise
        return F.mse_loss(self.net(torch.cat([noisy, level], 1)), noise)


class Vae(Program):
    """The weight of the KL term grows, so the total does."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 16))
        self.decoder = mlp(8, 64)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        mean, log_variance = self.net(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        weight = min(1.0, self.global_step / 150)
        return F.mse_loss(self.decoder(z), x) + weight * 0.1 * kl


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.1 * gradient


class DomainAdversarial(Program):
    """The domain classifier is kept at chance by a reversed gradient."""

    def __init__(self) -> None:
        super().__init__(mlp(outputs=32))
        self.classes, self.domains = nn.Linear(32, 10), nn.Linear(32, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        hidden = F.relu(self.net(x))
        domain = torch.arange(len(x)) % 2
        return F.cross_entropy(self.classes(hidden), y) + F.cross_entropy(
            self.domains(Reverse.apply(hidden)), domain
        )


class WarmUp(Program):
    """The learning rate needs most of the run to come up."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step / 300) ** 2)
        return [optimizer], [{"scheduler": warm, "interval": "step"}]


class Decayed(Program):
    """The learning rate is practically zero for the second half of the run."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return [optimizer], [{"scheduler": decay, "interval": "step"}]


class Curriculum(Program):
    """Samples get harder."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        x = x + 0.005 * self.global_step * torch.randn_like(x)
        return F.cross_entropy(self.net(x), y)


class Ragged(Program):
    """A summed loss over batches of very different size."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        n = 1 + (7 * batch_idx) % 32
        return F.cross_entropy(self.net(x[:n]), y[:n], reduction="sum")


class Spike(Program):
    """One mad batch, from which training recovers."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        scale = 100.0 if self.global_step == 100 else 1.0
        return F.cross_entropy(scale * self.net(x), y)


class Penalty(Program):
    """The weight of a constraint grows by a factor of ten, again and again."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        weight = 10.0 ** (self.global_step // 30 - 2)
        return F.mse_loss(out, y) + weight * F.relu(out - 1.5).pow(2).mean()


class HeavyTailed(Program):
    """Targets with outliers: most of the loss comes from a few samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        noise = torch.distributions.StudentT(1.5).sample(y.shape)
        return F.huber_loss(self.net(x), y + noise)


def trained() -> nn.Sequential:
    torch.manual_seed(1)
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(20):
        for x, y in digits():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net


def weak(signal: float, n: int = 1024) -> DataLoader[Any]:
    """A binary label that the inputs hardly tell: the loss ends just below chance."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 8, generator=generator)
    y = torch.rand(n, generator=generator) < torch.sigmoid(signal * x[:, 0])
    return DataLoader(TensorDataset(x, y.long()), batch_size=32, shuffle=True)


class Stream(IterableDataset[Any]):
    """No epochs."""

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            x = torch.randn(32, 8, generator=generator)
            yield x, x.sum(1, keepdim=True)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: Program(mlp(), optimizer=SGD), id="until it fits"),
        pytest.param(
            lambda: Program(trained(), optimizer=partial(torch.optim.Adam, lr=1e-6)),
            id="fine-tuning at a tiny learning rate",
        ),
        pytest.param(
            lambda: Program(mlp(width=256), nn.CrossEntropyLoss(label_smoothing=0.3)),
            id="at the floor of label smoothing",
        ),
        pytest.param(lambda: SimClr(mlp(outputs=16)), id="SimCLR at temperature 1"),
        pytest.param(Moco, id="MoCo"),
        pytest.param(lambda: Diffusion(mlp(65, 64)), id="diffusion"),
        pytest.param(Vae, id="KL warm-up"),
        pytest.param(DomainAdversarial, id="gradient reversal"),
        pytest.param(lambda: WarmUp(mlp()), id="slow warm-up"),
        pytest.param(lambda: Decayed(mlp()), id="decayed to nothing"),
        pytest.param(lambda: Curriculum(mlp(), optimizer=SGD), id="curriculum"),
        pytest.param(lambda: Ragged(mlp()), id="summed over ragged batches"),
        pytest.param(lambda: Spike(mlp()), id="a spike"),
        pytest.param(
            lambda: Program(mlp(), lambda z, y: F.cross_entropy(z, y) - 5.0), id="shifted below 0"
        ),
    ],
)
def test_digits(module: Any) -> None:
    assert alarms(fit(module, digits(), epochs=10)) == []


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: Critic(mlp(8, 1), optimizer=ADAM), id="critic"),
        pytest.param(Gan, id="GAN"),
        pytest.param(ValueLearning, id="temporal differences"),
        pytest.param(lambda: Returns(mlp(8, 1), optimizer=ADAM), id="growing returns"),
        pytest.param(lambda: Penalty(mlp(8, 1), optimizer=ADAM), id="growing penalty"),
        pytest.param(lambda: HeavyTailed(mlp(8, 1), optimizer=ADAM), id="heavy tails"),
        pytest.param(
            lambda: Program(nn.Linear(8, 1), F.mse_loss, ADAM), id="a linear model at its limit"
        ),
    ],
)
def test_regression(module: Any) -> None:
    assert alarms(fit(module, regression(), epochs=20)) == []


def test_stream() -> None:
    module = partial(Program, mlp(8, 1), F.mse_loss, ADAM)
    assert alarms(fit(module, DataLoader(Stream(), batch_size=None), epochs=1)) == []


@pytest.mark.parametrize("signal", [0.5, 1.0, 2.0])
def test_little_to_learn(signal: float) -> None:
    module = partial(Program, nn.Linear(8, 2), optimizer=ADAM)
    assert alarms(fit(module, weak(signal), epochs=12)) == []


def test_short_run() -> None:
    assert alarms(fit(partial(Program, mlp()), digits(n=256), epochs=1)) == []


@pytest.mark.parametrize(
    ("module", "epochs"),
    [
        pytest.param(lambda: Validated(mlp(), optimizer=SGD), 12, id="until it fits"),
        pytest.param(lambda: NoisyValidation(mlp(), optimizer=SGD), 12, id="noisy validation"),
        pytest.param(
            lambda: Validated(nn.Sequential(nn.Dropout(0.5), *mlp()), optimizer=ADAM),
            10,
            id="dropout: validation is below training",
        ),
        pytest.param(
            lambda: Validated(trained(), optimizer=partial(torch.optim.SGD, lr=0.01)),
            12,
            id="converged before",
        ),
    ],
)
def test_validation(module: Any, epochs: int) -> None:
    data, held = digits(n=1200), digits_held_out()
    assert alarms(fit(module, data, validation=held, epochs=epochs)) == []


def test_validation_on_another_scale() -> None:
    module = partial(RescaledValidation, mlp(8, 1), F.mse_loss, ADAM)
    x, y = regression(n=248).dataset.tensors  # type: ignore[attr-defined]
    data = DataLoader(TensorDataset(x[:48], y[:48]), batch_size=16, shuffle=True)
    held = DataLoader(TensorDataset(x[48:], y[48:]), batch_size=50)
    assert alarms(fit(module, data, validation=held, epochs=60)) == []


def test_validation_several_times_an_epoch() -> None:
    module = partial(Validated, mlp(), optimizer=SGD)
    suite = fit(
        module, digits(n=1200), validation=digits_held_out(), epochs=6, val_check_interval=0.25
    )
    assert alarms(suite) == []


def test_several_validation_loaders() -> None:
    class Several(Program):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            # The second is of another distribution, and gets worse on purpose.
            self.log("val_loss", F.cross_entropy(self(x) * (1 + 5 * dataloader_idx), y))

    suite = fit(
        partial(Several, mlp(), optimizer=SGD),
        digits(n=1200),
        validation=[digits_held_out(), digits_held_out()],
        epochs=10,
    )
    assert alarms(suite) == []


def test_sequences() -> None:
    class Lstm(Program):
        def __init__(self) -> None:
            super().__init__(nn.LSTM(16, 32, batch_first=True), optimizer=ADAM)
            self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.net(self.embedding(x))
            logits: Tensor = self.head(out[:, -1])
            return logits

    assert alarms(fit(Lstm, sequences(), epochs=15)) == []


def digits_held_out() -> DataLoader[Any]:
    """The rest of the digits."""
    x, y = digits(n=1797).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x[1200:], y[1200:]), batch_size=64)
