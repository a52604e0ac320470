"""Healthy calls of loss functions that look like mistakes."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression, sequences

ADAM = partial(torch.optim.Adam, lr=3e-3)


def mlp(*last, inputs=64, outputs=10):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs), *last)


class Cosine(nn.Module):
    """Cosine similarities to prototypes, without a temperature: small logits."""

    def __init__(self):
        super().__init__()
        self.net = mlp(outputs=16)
        self.prototypes = nn.Parameter(torch.randn(10, 16))

    def forward(self, x):
        return F.normalize(self.net(x), dim=1) @ F.normalize(self.prototypes, dim=1).T


class Scaled(nn.Module):
    """Logits of -8 to 8, made of a sigmoid."""

    def forward(self, x):
        return 16.0 * x.sigmoid() - 8.0


class Attentive(Program):
    """Attention weights are probabilities, and the loss sees what they weigh."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 32))
        self.score = nn.Linear(32, 1)
        self.head = nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        ids, y = batch
        hidden = self.net(ids)
        weights = self.score(hidden).softmax(1)
        return F.cross_entropy(self.head((weights * hidden).sum(1)), y)


class SigmoidForMetrics(Program):
    """The model gives probabilities to metrics, and logits to the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        probabilities = logits.sigmoid()
        self.log("mean", probabilities.mean())
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 10).float())


class Focal(Program):
    """The focal loss that hands weighted log-probabilities to nll_loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logp = self.net(x).log_softmax(1)
        return F.nll_loss((1.0 - logp.exp()) ** 2 * logp, y)


class Policy(Program):
    """A policy gradient: log-probabilities times an advantage of either sign."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        logp = self.net(x).log_softmax(1)
        advantage = torch.where(y % 2 == 0, 1.0, -0.1)
        return F.nll_loss(advantage[:, None] * logp, y)


class Ensemble(Program):
    """The logarithm of the mean of two softmaxes."""

    def __init__(self):
        super().__init__(mlp())
        self.other = mlp()

    def training_step(self, batch, batch_idx):
        x, y = batch
        mean = (self.net(x).softmax(1) + self.other(x).softmax(1)) / 2.0
        return F.nll_loss(torch.log(mean + 1e-6), y)


class Bernoulli(Program):
    """kl_div over pairs of single probabilities, whose rows do not sum to 1."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        target = F.one_hot(y, 10) * 0.8 + 0.1
        both = torch.stack([F.logsigmoid(z), F.logsigmoid(-z)])
        return F.kl_div(both, torch.stack([target, 1.0 - target]), reduction="batchmean")


class Heatmap(Program):
    """A distribution over all pixels of an image."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1))
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        out = self.last(F.relu(self.net(x))).flatten(1).log_softmax(1).view_as(x)
        target = x / x.sum((1, 2, 3), keepdim=True)
        return F.kl_div(out, target, reduction="batchmean")


class Mutual(Program):
    """Two networks teach each other, both sides as logarithms."""

    def __init__(self):
        super().__init__(mlp())
        self.other = mlp()

    def training_step(self, batch, batch_idx):
        x, y = batch
        one, other = self.net(x).log_softmax(1), self.other(x).log_softmax(1)
        agree = F.kl_div(one, other.detach(), log_target=True, reduction="batchmean")
        return F.nll_loss(one, y) + F.nll_loss(other, y) + agree


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: Program(Cosine(), optimizer=ADAM), id="cosine logits"),
        pytest.param(lambda: Program(mlp(nn.ReLU())), id="rectified logits"),
        pytest.param(lambda: Program(mlp(Scaled())), id="scaled sigmoid as logits"),
        pytest.param(lambda: SigmoidForMetrics(mlp()), id="sigmoid for metrics"),
        pytest.param(
            lambda: Program(mlp(), lambda z, y: F.cross_entropy(z, F.one_hot(y, 10) * 0.9 + 0.01)),
            id="soft labels",
        ),
        pytest.param(
            lambda: Program(
                mlp(nn.Sigmoid()), lambda p, y: F.binary_cross_entropy(p, F.one_hot(y, 10) * 1.0)
            ),
            id="sigmoid before binary_cross_entropy",
        ),
        pytest.param(
            lambda: Program(
                mlp(nn.Softmax(1)), lambda p, y: F.nll_loss(p.clamp_min(1e-7).log(), y)
            ),
            id="log of clamped probabilities",
        ),
        pytest.param(lambda: Focal(mlp()), id="focal through nll_loss"),
        pytest.param(lambda: Policy(mlp()), id="policy gradient through nll_loss"),
        pytest.param(Ensemble, id="ensemble"),
        pytest.param(lambda: Bernoulli(mlp()), id="kl_div of single probabilities"),
        pytest.param(Mutual, id="kl_div with log_target"),
        pytest.param(
            lambda: Program(
                mlp(nn.Softmax(1)), lambda p, y: F.mse_loss(p, F.one_hot(y, 10).float()), ADAM
            ),
            id="Brier score",
        ),
        pytest.param(
            lambda: Program(
                mlp(),
                lambda z, y: F.binary_cross_entropy_with_logits(
                    z[:, :1], 0.7 + 0.5 * (y[:, None] / 9.0)
                ),
            ),
            id="noisy labels of a discriminator",
        ),
        pytest.param(
            lambda: Program(
                mlp(),
                lambda z, y: (
                    F.binary_cross_entropy_with_logits(
                        z,
                        torch.where(y[:, None] % 3 == 0, -1.0, F.one_hot(y, 10)),
                        reduction="none",
                    )
                    * (y[:, None] % 3 != 0)
                ).mean(),
            ),
            id="missing labels of -1, masked",
        ),
    ],
)
def test_classification(module):
    assert alarms(fit(module, digits())) == []


def test_attention():
    assert alarms(fit(Attentive, sequences())) == []


def test_heatmap():
    assert alarms(fit(Heatmap, digits(flat=False))) == []


class Heads(Program):
    """Three heads of an ensemble learn the same target of shape (N, 1)."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x), y.expand(-1, 3)) + F.l1_loss(self.net(x), y)


class Quantile(Program):
    """Quantile regression of a distribution of values: all predictions meet all samples."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        theta = self.net(x)
        sampled = y + torch.linspace(-0.2, 0.2, 4)
        error = F.smooth_l1_loss(
            theta.unsqueeze(2).expand(-1, -1, 4),
            sampled.unsqueeze(1).expand(-1, theta.shape[1], -1),
            reduction="none",
        )
        return error.mean()


class Pairwise(Program):
    """Differences of scores should be those of targets: (N, 1) against (1, N) on purpose."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        score = self.net(x)
        return F.mse_loss(score - score.T, y - y.T)


class Autoregressive(Program):
    """The model's own estimate is the target, with its own shape."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            following = self.net(x.roll(1, 0))
        return F.mse_loss(self.net(x), y + 0.5 * following)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: Heads(mlp(inputs=8, outputs=3)), id="three heads, one target"),
        pytest.param(lambda: Quantile(mlp(inputs=8, outputs=4)), id="quantiles, pairwise"),
        pytest.param(lambda: Pairwise(mlp(inputs=8, outputs=1)), id="pairs on purpose"),
        pytest.param(lambda: Autoregressive(mlp(inputs=8, outputs=1)), id="bootstrapped targets"),
        pytest.param(
            lambda: Program(
                mlp(nn.Softplus(), inputs=8, outputs=1), lambda p, y: F.mse_loss(p, y.abs())
            ),
            id="softplus for positive targets",
        ),
        pytest.param(
            lambda: Program(
                mlp(nn.ReLU(), inputs=8, outputs=1),
                lambda p, y: F.mse_loss(p, y.abs() - 0.02),
                ADAM,
            ),
            id="relu and noise around zero",
        ),
        pytest.param(
            lambda: Program(
                mlp(nn.Sigmoid(), inputs=8, outputs=1),
                lambda p, y: F.mse_loss(p, 0.5 + 0.4 * y.sign() + 0.12 * torch.randn_like(y)),
                ADAM,
            ),
            id="sigmoid and noise at both ends",
        ),
        pytest.param(
            lambda: Program(
                mlp(nn.Tanh(), inputs=8, outputs=1), lambda p, y: F.mse_loss(p, y.clamp(-1, 1))
            ),
            id="tanh for clipped actions",
        ),
        pytest.param(
            lambda: Program(
                mlp(inputs=8, outputs=1),
                lambda p, y: F.poisson_nll_loss(p, (y.abs() * 3.0).round()),
                ADAM,
            ),
            id="counts",
        ),
        pytest.param(
            lambda: Program(
                mlp(inputs=8, outputs=1),
                lambda p, y: F.mse_loss(p, (y * 1.5 + 3.0).round().clamp(1, 5)),
                ADAM,
            ),
            id="ratings of 1 to 5",
        ),
        pytest.param(
            lambda: Program(
                mlp(inputs=8, outputs=1), lambda p, y: F.mse_loss(p, 100.0 + 30.0 * y), ADAM
            ),
            id="targets of 100",
        ),
        pytest.param(
            lambda: Program(mlp(inputs=8, outputs=1), lambda p, y: F.mse_loss(p, 150.0 + 77.0 * y)),
            id="targets of 100, slowly",
        ),
        pytest.param(
            lambda: Program(
                mlp(inputs=8, outputs=1),
                lambda p, y: F.mse_loss(p, y, reduction="sum"),
                partial(torch.optim.SGD, lr=2e-4, momentum=0.9),
            ),
            id="a sum with a small learning rate",
        ),
        pytest.param(
            lambda: Program(
                mlp(inputs=8, outputs=1),
                lambda p, y: F.mse_loss(p, y, reduction="sum") / len(y),
                partial(torch.optim.SGD, lr=0.05),
            ),
            id="a sum divided by hand",
        ),
        pytest.param(
            lambda: Program(mlp(inputs=8, outputs=1), partial(F.mse_loss, reduction="sum"), ADAM),
            id="a sum with Adam",
        ),
    ],
)
def test_regression(module):
    assert alarms(fit(module, regression(), epochs=4)) == []


class Rated(Program):
    """A few ratings around 3 of many items; the others are stored as 0 and masked."""

    def __init__(self, way):
        super().__init__(mlp(inputs=8, outputs=20), optimizer=ADAM)
        with torch.no_grad():
            self.net[-1].bias.fill_(3.0)
        self.way = way

    def training_step(self, batch, batch_idx):
        x, ratings = batch
        known = ratings != 0
        if self.way == "by hand":
            return ((self(x) - ratings).square() * known).sum() / known.sum()
        if self.way == "picked by hand":
            return ((self(x) - ratings) ** 2)[known].mean()
        errors = F.mse_loss(self(x), ratings, reduction="none")
        return errors[known].mean() if self.way == "picked" else (errors * known).sum() / 60


def ratings():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=generator)
    all_rated = 3.0 + torch.tanh(x @ torch.randn(8, 20, generator=generator) / 3.0)
    known = torch.rand(512, 20, generator=generator) < 0.1
    return DataLoader(TensorDataset(x, all_rated * known), batch_size=32, shuffle=True)


@pytest.mark.parametrize("way", ["by hand", "picked by hand", "picked", "weighed"])
def test_errors_that_a_mask_drops(way):
    assert alarms(fit(lambda: Rated(way), ratings(), epochs=4)) == []


def rated(*, levels, noise, features):
    """Whole numbers that are amounts: the inputs of 2 lie between those of 1 and 3."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, levels, (512,), generator=generator)
    direction = torch.randn(features, generator=generator)
    x = noise * torch.randn(512, features, generator=generator)
    x = x + (y[:, None] - (levels - 1) / 2) * direction / direction.norm() * 4.0 / levels
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


@pytest.mark.parametrize(("levels", "noise"), [(3, 0.3), (5, 0.5), (10, 0.2), (10, 0.5), (40, 0.5)])
def test_ordinal_regression(levels, noise):
    def loss(prediction, y):
        return F.mse_loss(prediction.squeeze(1), y.float())

    module = partial(Program, mlp(inputs=8, outputs=1), loss, ADAM)
    assert alarms(fit(module, rated(levels=levels, noise=noise, features=8), epochs=4)) == []


class ZeroHead(Program):
    """A head that starts at zero and a learning rate that starts near it."""

    def __init__(self):
        super().__init__(mlp(inputs=8, outputs=1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 200))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_zero_head_with_warm_up():
    assert alarms(fit(ZeroHead, regression(), epochs=6)) == []


class Vae(Program):
    """An ELBO: sums over pixels, divided by the batch size."""

    def __init__(self):
        super().__init__(mlp(outputs=16))
        self.decoder = mlp(inputs=8, outputs=64)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log_variance = self.net(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        fit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (fit + kl) / len(x)


def test_elbo():
    assert alarms(fit(Vae, digits())) == []


def unbalanced(shares, *, distance, n=2048):
    """Gaussian clouds in these shares."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
    centres = torch.randn(len(shares), 64, generator=generator) * distance
    x = torch.randn(n, 64, generator=generator) + centres[y]
    return DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)


@pytest.mark.parametrize(
    ("shares", "outputs", "loss"),
    [
        pytest.param((0.95, 0.05), 2, F.cross_entropy, id="told apart"),
        pytest.param((0.97, 0.01, 0.01, 0.01), 4, F.cross_entropy, id="four classes, told apart"),
        pytest.param(
            (0.95, 0.05),
            1,
            lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(1), y.float()),
            id="binary, told apart",
        ),
    ],
)
def test_rare_classes(shares, outputs, loss):
    data = unbalanced(shares, distance=0.5)
    module = partial(Program, mlp(outputs=outputs), loss, ADAM)
    assert alarms(fit(module, data, epochs=6)) == []


def test_segmentation_with_a_large_background():
    class Segmentation(Program):
        def __init__(self):
            super().__init__(nn.Conv2d(1, 16, 3, padding=1))
            self.last = nn.Conv2d(16, 2, 3, padding=1)

        def training_step(self, batch, batch_idx):
            x, _ = batch
            return F.cross_entropy(self.last(F.relu(self.net(x))), (x[:, 0] > 0.95).long())

    assert alarms(fit(Segmentation, digits(flat=False), epochs=3)) == []


class Tagger(Program):
    """Tags of tokens; the loss is flattened."""

    def __init__(self, tags, **loss):
        super().__init__(nn.Embedding(30, 32))
        self.rnn = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 6)
        self.tags = tags
        self.options = loss

    def training_step(self, batch, batch_idx):
        ids = batch[0]
        out = self.head(self.rnn(self.net(ids))[0])
        tags = self.tags(ids)
        return F.cross_entropy(out.flatten(0, 1), tags.flatten(), **self.options)


def tokens(*, end=False, fixed=0, varied=False, n=512, length=20):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 30, (n, length), generator=generator)
    lengths = torch.randint(4, length + 1, (n, 1), generator=generator)
    if end:
        ids[:, -1] = 1
    if fixed:
        ids[:, -fixed:] = 0
    if varied:
        ids[torch.arange(length) >= lengths] = 0
    return DataLoader(TensorDataset(ids), batch_size=32, shuffle=True)


def masked_loss(out, tags, keep):
    loss = F.cross_entropy(out, tags, reduction="none")
    return (loss * keep).sum() / keep.sum()


class Masked(Tagger):
    """Padding is left out by hand."""

    def training_step(self, batch, batch_idx):
        ids = batch[0]
        out = self.head(self.rnn(self.net(ids))[0]).flatten(0, 1)
        return masked_loss(out, self.tags(ids).flatten(), (ids != 0).flatten())


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(
            lambda: Tagger(lambda ids: torch.where(ids % 7 == 0, ids % 5 + 1, 0)),
            tokens(),
            id="mostly the O tag",
        ),
        pytest.param(
            lambda: Tagger(lambda ids: torch.where(ids == 1, 5, ids % 5)),
            tokens(end=True),
            id="one end token",
        ),
        pytest.param(
            lambda: Tagger(lambda ids: torch.where(ids == 0, 5, ids % 5)),
            tokens(fixed=4),
            id="a suffix of fixed length",
        ),
        pytest.param(
            lambda: Tagger(lambda ids: torch.where(ids == 0, -100, ids % 6)),
            tokens(varied=True),
            id="targets padded with -100",
        ),
        pytest.param(
            lambda: Masked(lambda ids: torch.where(ids == 0, 5, ids % 5)),
            tokens(varied=True),
            id="padding masked by hand",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: Tagger(lambda ids: ids.sort(1).values // 5), tokens(), id="sorted tokens"
        ),
    ],
)
def test_tags(module, data):
    assert alarms(fit(module, data, epochs=3)) == []


class Hidden(Tagger):
    """A few tokens are hidden and asked for; in some batches, none."""

    def training_step(self, batch, batch_idx):
        ids, hidden = batch
        out = self.head(self.rnn(self.net(torch.where(hidden, 1, ids)))[0])
        tags = torch.where(hidden, self.tags(ids), -100)
        loss = F.cross_entropy(out.flatten(0, 1), tags.flatten(), reduction="sum")
        return loss / hidden.sum().clamp_min(1)


def test_batches_in_which_no_target_counts():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 30, (512, 1), generator=generator).repeat(1, 12)
    hidden = torch.rand(512, 12, generator=generator) < 0.03
    data = DataLoader(TensorDataset(ids, hidden), batch_size=4, shuffle=True)
    suite = fit(lambda: Hidden(lambda ids: ids % 6), data, epochs=4)
    assert alarms(suite) == []
    # A mean over one target is its sum.
    assert all(f.name != "loss-reduction" for f in suite.findings)


def test_last_batch_of_one():
    """A prediction of shape (1, 1) fits a target of shape (1,), and a softmax over one is 1."""

    class InBatch(Program):
        def training_step(self, batch, batch_idx):
            x, _ = batch
            z = F.normalize(self.net(x), dim=1)
            other = F.normalize(self.net(x + 0.05 * torch.randn_like(x)), dim=1)
            return F.cross_entropy(z @ other.T / math.sqrt(0.1), torch.arange(len(x)))

    assert alarms(fit(lambda: InBatch(mlp()), digits(n=513))) == []
