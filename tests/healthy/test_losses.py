"""Healthy losses whose first value is not ln(C), or not small, and for good reasons."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression, sequences

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def mlp(inputs=64, outputs=10, width=64):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class FocalLoss(nn.Module):
    """The usual one: cross entropy per sample, weighted by how wrong it is."""

    def __init__(self, gamma=2.0, alpha=0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits, target):
        ce = F.cross_entropy(logits, target, reduction="none")
        p = torch.exp(-ce)
        return (self.alpha * (1 - p) ** self.gamma * ce).mean()


class HandwrittenFocalLoss(nn.Module):
    def forward(self, logits, target):
        logp = F.log_softmax(logits, dim=-1).gather(1, target[:, None]).squeeze(1)
        return -((1 - logp.exp()) ** 2 * logp).mean()


class DiceLoss(nn.Module):
    def forward(self, logits, target):
        p = logits.softmax(-1)
        onehot = F.one_hot(target, 10).float()
        inter = (p * onehot).sum(0)
        return 1 - ((2 * inter + 1) / (p.sum(0) + onehot.sum(0) + 1)).mean()


class LabelSmoothing(nn.Module):
    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits, target):
        logp = logits.log_softmax(-1)
        nll = -logp.gather(1, target[:, None]).squeeze(1)
        return ((1 - self.smoothing) * nll - self.smoothing * logp.mean(-1)).mean()


class BatchHardTriplet(nn.Module):
    """Hardest positive and hardest negative of the batch."""

    def __init__(self, margin=0.2):
        super().__init__()
        self.margin = margin

    def forward(self, embedding, labels):
        distance = torch.cdist(embedding, embedding)
        same = labels[:, None] == labels[None]
        positive = (distance * same).amax(1)
        negative = distance.masked_fill(same, float("inf")).amin(1)
        return F.relu(positive - negative + self.margin).mean()


class SupervisedContrastive(nn.Module):
    def __init__(self, temperature=0.07):
        super().__init__()
        self.temperature = temperature

    def forward(self, features, labels):
        z = F.normalize(features, dim=1)
        logits = z @ z.T / self.temperature
        itself = torch.eye(len(z), dtype=torch.bool)
        same = (labels[:, None] == labels[None]) & ~itself
        logp = logits - torch.logsumexp(logits.masked_fill(itself, -1e9), 1, keepdim=True)
        return -((logp * same).sum(1) / same.sum(1).clamp(min=1)).mean()


class ArcFace(nn.Module):
    """Additive angular margin head, as most repositories write it."""

    def __init__(self, inputs=64, classes=10, s=64.0, m=0.5):
        super().__init__()
        self.s, self.m = s, m
        self.weight = nn.Parameter(torch.empty(classes, inputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x, label):
        cosine = F.linear(F.normalize(x), F.normalize(self.weight))
        sine = torch.sqrt((1.0 - cosine**2).clamp(0, 1))
        phi = cosine * math.cos(self.m) - sine * math.sin(self.m)
        one_hot = torch.zeros_like(cosine)
        one_hot.scatter_(1, label.view(-1, 1), 1)
        output = one_hot * phi + (1.0 - one_hot) * cosine
        output *= self.s
        return output


class CosFace(ArcFace):
    def forward(self, x, label):
        cosine = F.linear(F.normalize(x), F.normalize(self.weight))
        one_hot = F.one_hot(label, cosine.shape[1]).float()
        return self.s * (cosine - one_hot * 0.35)


class Faces(Program):
    def __init__(self, head):
        super().__init__(mlp(outputs=64))
        self.head = head

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.net(x), y), y)


class NormFace(Program):
    """Cosines to a learned proxy of each class, over a temperature."""

    def __init__(self, first=False):
        super().__init__(mlp(outputs=64))
        self.proxies = nn.Parameter(torch.randn(10, 64))
        self.first = first

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.first:
            logits = (20.0 * F.normalize(self.net(x))) @ F.normalize(self.proxies).T
            return F.cross_entropy(logits, y)
        logits = F.normalize(self.net(x)) @ F.normalize(self.proxies).T
        return F.cross_entropy(logits / 0.05, y)


class Clip(Program):
    """Two towers, a learned temperature, and the similarity matrix as logits."""

    def __init__(self, order="scaled first"):
        super().__init__(mlp(inputs=32, outputs=32))
        self.other = mlp(inputs=32, outputs=32)
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))
        self.order = order

    def training_step(self, batch, batch_idx):
        x, _ = batch
        a = F.normalize(self.net(x[:, :32]), dim=-1)
        b = F.normalize(self.other(x[:, 32:]), dim=-1)
        scale = self.logit_scale.exp()
        logits = scale * a @ b.t() if self.order == "scaled first" else scale * (a @ b.t())
        labels = torch.arange(len(x))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


class SimClr(Program):
    def __init__(self, temperature=0.1):
        super().__init__(mlp(outputs=32))
        self.temperature = temperature

    def training_step(self, batch, batch_idx):
        x, _ = batch
        views = torch.cat([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)])
        z = F.normalize(self.net(views), dim=1)
        sim = z @ z.T / self.temperature
        sim = sim.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        positive = torch.arange(len(z)).roll(len(x))
        return F.cross_entropy(sim, positive)


class Mixup(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        lam = float(torch.distributions.Beta(0.4, 0.4).sample())
        order = torch.randperm(len(x))
        target = F.one_hot(y, 10).float()
        target = lam * target + (1 - lam) * target[order]
        return F.cross_entropy(self.net(lam * x + (1 - lam) * x[order]), target)


class Distillation(Program):
    """A student between hard labels and a teacher at temperature 4."""

    def __init__(self, teacher):
        super().__init__(mlp(width=16))
        self.teacher = teacher.eval().requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            teacher = self.teacher(x)
        student, t = self.net(x), 4.0
        soft = F.kl_div(
            F.log_softmax(student / t, 1), F.softmax(teacher / t, 1), reduction="batchmean"
        )
        return 0.3 * F.cross_entropy(student, y) + 0.7 * t * t * soft


class Consistency(Program):
    """Supervised on a few, and two noisy views have to agree on all."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        one = self.net(x + 0.1 * torch.randn_like(x))
        other = self.net(x + 0.1 * torch.randn_like(x))
        agree = F.mse_loss(one.softmax(1), other.softmax(1).detach())
        return F.cross_entropy(one[:8], y[:8]) + 10.0 * agree


class TokenModel(Program):
    """A small language model: the loss is over tokens."""

    def __init__(self, reduction="mean"):
        super().__init__(nn.Identity())
        self.embedding = nn.Embedding(20, 32)
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 20)
        self.reduction = reduction

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        hidden, _ = self.rnn(self.embedding(ids[:, :-1]))
        logits = self.head(hidden).transpose(1, 2)
        return F.cross_entropy(logits, ids[:, 1:], reduction=self.reduction)


class TiedLanguageModel(Program):
    """Embedding and head share a weight that starts at N(0, 0.02), as in GPT-2."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.embedding = nn.Embedding(20, 64)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 20, bias=False)
        self.head.weight = self.embedding.weight

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        n = ids.shape[1] - 1
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        hidden = self.norm(self.block(self.embedding(ids[:, :-1]), src_mask=mask, is_causal=True))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), ids[:, 1:].flatten())


class Multilabel(Program):
    def __init__(self, **loss):
        super().__init__(mlp())
        self.criterion = nn.BCEWithLogitsLoss(**loss)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self.net(x), F.one_hot(y, 10).float())


class Ordinal(Program):
    """Three losses at once, each with its own weight."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.net(x)
        value = (out.softmax(1) * torch.arange(10.0)).sum(1)
        return (
            F.cross_entropy(out, y) + 0.1 * F.l1_loss(value, y.float()) + 0.01 * out.pow(2).mean()
        )


class HeteroscedasticRegression(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        mean, log_variance = self.net(x).chunk(2, dim=1)
        return F.gaussian_nll_loss(mean, y, log_variance.exp())


class Quantiles(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        q = torch.tensor([0.1, 0.5, 0.9])
        error = y - self.net(x)
        return torch.maximum(q * error, (q - 1) * error).mean()


class Rmse(nn.Module):
    def forward(self, prediction, target):
        return torch.sqrt(((prediction - target) ** 2).mean() + 1e-8)


def shifted(mean, std):
    """A regression task with targets of this mean and standard deviation."""
    x, y = regression(n=512).dataset.tensors
    y = (y - y.mean()) / y.std() * std + mean
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


def trained():
    """A classifier that has learned the digits."""
    torch.manual_seed(1)
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(6):
        for x, y in digits():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net


def finetuned_with_new_head():
    net = copy.deepcopy(trained())
    net[-1] = nn.Linear(64, 10)
    return Program(net)


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 5.0, 1.0, 0.1, 1.0, 3.0, 1.0, 20.0])


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: Program(trained()), id="fine-tuning a trained net"),
        pytest.param(finetuned_with_new_head, id="fine-tuning with a new head"),
        pytest.param(
            lambda: Program(mlp(), nn.CrossEntropyLoss(weight=WEIGHTS)), id="class weights"
        ),
        pytest.param(
            lambda: Program(mlp(), nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum")),
            id="class weights, summed",
        ),
        pytest.param(
            lambda: Program(mlp(), nn.CrossEntropyLoss(label_smoothing=0.1)), id="label smoothing"
        ),
        pytest.param(lambda: Program(mlp(), LabelSmoothing()), id="handwritten label smoothing"),
        pytest.param(lambda: Mixup(mlp()), id="mixup"),
        pytest.param(lambda: Program(mlp(), FocalLoss()), id="focal loss"),
        pytest.param(
            lambda: Program(mlp(), HandwrittenFocalLoss()), id="focal loss from log_softmax"
        ),
        pytest.param(lambda: Program(mlp(), DiceLoss()), id="dice loss"),
        pytest.param(
            lambda: Program(mlp(), partial(F.cross_entropy, reduction="sum")), id="summed loss"
        ),
        pytest.param(
            lambda: Program(mlp(), lambda z, y: F.nll_loss(F.log_softmax(z, 1), y)), id="nll loss"
        ),
        pytest.param(
            lambda: Program(mlp(), lambda z, y: F.cross_entropy(z.log_softmax(1), y)),
            id="log_softmax before cross_entropy",
        ),
        pytest.param(lambda: Program(mlp(), F.multi_margin_loss), id="hinge loss"),
        pytest.param(
            lambda: Program(
                mlp(),
                lambda z, y: (
                    F.relu(1 + z - z.gather(1, y[:, None]))
                    .masked_fill(F.one_hot(y, 10).bool(), 0)
                    .sum(1)
                    .mean()
                ),
            ),
            id="handwritten hinge loss",
        ),
        pytest.param(lambda: Program(mlp(outputs=16), BatchHardTriplet()), id="batch-hard triplet"),
        pytest.param(
            lambda: Program(mlp(outputs=32), SupervisedContrastive()), id="supervised contrastive"
        ),
        pytest.param(lambda: Faces(ArcFace()), id="ArcFace"),
        pytest.param(lambda: Faces(CosFace(s=30.0)), id="CosFace"),
        pytest.param(NormFace, id="cosine logits over a temperature"),
        pytest.param(lambda: NormFace(first=True), id="scaled vectors, then their cosines"),
        pytest.param(Clip, id="CLIP"),
        pytest.param(lambda: Clip("scaled last"), id="CLIP, scaled last"),
        pytest.param(SimClr, id="SimCLR with a mask of -inf"),
        pytest.param(lambda: Distillation(trained()), id="distillation"),
        pytest.param(lambda: Consistency(mlp()), id="consistency of two views"),
        pytest.param(Multilabel, id="multilabel"),
        pytest.param(
            lambda: Multilabel(pos_weight=torch.full((10,), 9.0)), id="multilabel with pos_weight"
        ),
        pytest.param(lambda: Multilabel(reduction="sum"), id="multilabel, summed"),
        pytest.param(lambda: Ordinal(mlp()), id="several losses with weights"),
        pytest.param(
            lambda: Program(mlp(), optimizer=partial(torch.optim.Adam, lr=1e-2)), id="Adam at 1e-2"
        ),
        pytest.param(
            lambda: Program(mlp(width=256), optimizer=SGD), id="SGD with momentum, until it fits"
        ),
    ],
)
def test_digits(module):
    assert alarms(fit(module, digits(), epochs=3)) == []


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(TokenModel, id="per token"),
        pytest.param(lambda: TokenModel("sum"), id="per token, summed"),
        pytest.param(TiedLanguageModel, id="tied embedding"),
    ],
)
def test_tokens(module):
    assert alarms(fit(module, sequences(), epochs=3)) == []


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        pytest.param(shifted(0.0, 1.0), F.mse_loss, id="standardised"),
        pytest.param(shifted(2.0, 1.0), F.mse_loss, id="mean 2"),
        pytest.param(shifted(150.0, 77.0), F.mse_loss, id="raw targets"),
        pytest.param(shifted(150.0, 77.0), Rmse(), id="raw targets, rmse"),
        pytest.param(shifted(0.0, 0.2), F.mse_loss, id="small targets"),
        pytest.param(shifted(0.0, 0.2), Rmse(), id="small targets, rmse"),
        pytest.param(shifted(0.0, 1.0), partial(F.mse_loss, reduction="sum"), id="summed"),
        pytest.param(shifted(0.0, 1.0), F.l1_loss, id="l1"),
        pytest.param(shifted(0.0, 1.0), nn.SmoothL1Loss(), id="smooth l1"),
        pytest.param(shifted(0.0, 1.0), nn.HuberLoss(delta=0.1), id="huber"),
        pytest.param(
            shifted(0.0, 1.0), lambda p, y: torch.log(torch.cosh(p - y)).mean(), id="log cosh"
        ),
    ],
)
def test_regression(data, loss):
    module = partial(Program, mlp(8, 1), loss, partial(torch.optim.Adam, lr=3e-3))
    assert alarms(fit(module, data, epochs=5)) == []


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: HeteroscedasticRegression(mlp(8, 2)), id="gaussian nll"),
        pytest.param(lambda: Quantiles(mlp(8, 3)), id="quantiles"),
    ],
)
def test_distributions(module):
    assert alarms(fit(module, regression(), epochs=5)) == []


def test_margins_that_are_met_exactly():
    y = torch.arange(1600) % 3
    x = 0.3 * torch.randn(1600, 8, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(x + 3.0 * F.one_hot(y, 8), y), batch_size=32, shuffle=True)
    module = partial(Program, nn.Linear(8, 3), F.multi_margin_loss)
    adam = partial(torch.optim.Adam, lr=0.01)
    assert alarms(fit(partial(module, adam), data, epochs=10)) == []


def test_hinge_that_is_met():
    """All margins are met in the end, so the hinge is zero for all samples."""

    def hinge(scores, target):
        true = scores.gather(1, target[:, None])
        others = ~F.one_hot(target, 10).bool()
        return (F.relu(1 + scores - true) * others).sum(1).mean()

    data = digits(n=128)
    module = partial(Program, mlp(), hinge, partial(torch.optim.Adam, lr=1e-2))
    assert alarms(fit(module, data, epochs=60)) == []


class Speller(Program):
    """Spells a digit from its columns, of which some lie behind its end; by log-probabilities."""

    def __init__(self, way):
        super().__init__(nn.Conv1d(8, 32, 3, padding=1))
        self.head, self.way = nn.Linear(32, 11), way

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.head(self.net(x.unflatten(1, (8, 8))).relu().permute(2, 0, 1))
        steps = 5 + y % 4
        if self.way == "masked":
            shown = torch.arange(8)[:, None] < steps
            out = out.log_softmax(2) * shown[:, :, None]
        elif self.way == "log":
            out = torch.log(out.softmax(2) + 1e-6)
        elif self.way == "normalised by hand":
            out = out - out.logsumexp(2, keepdim=True)
        else:
            out = out.to(torch.float64).log_softmax(-1)
        single = torch.ones(len(x), dtype=torch.long)
        return F.ctc_loss(out, y[:, None] + 1, steps, single, zero_infinity=True)


@pytest.mark.parametrize("way", ["masked", "log", "normalised by hand", "in 64 bits"])
def test_connectionist(way):
    suite = fit(lambda: Speller(way), digits(n=512), epochs=3)
    assert not [a for a in alarms(suite) if "not-log-prob" in a or "wrong-grad" in a]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_tiny_batches(batch):
    module = partial(Program, mlp(), optimizer=partial(torch.optim.SGD, lr=0.01))
    assert alarms(fit(module, digits(n=192, batch=batch), epochs=1)) == []


def clouds(shares, distance):
    """Gaussian clouds in these shares, whose centres lie this far out."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor(shares), 2048, replacement=True, generator=generator)
    x = torch.randn(2048, 12, generator=generator)
    return DataLoader(
        TensorDataset(x + distance * F.one_hot(y, 12), y), batch_size=64, shuffle=True
    )


@pytest.mark.parametrize(
    ("weights", "shares", "distance"),
    [
        pytest.param([5.0, 1.0], (0.95, 0.05), 4.0, id="false alarms cost more"),
        pytest.param([1.0, 1.0, 0.1], (0.49, 0.49, 0.02), 2.0, id="a class of junk"),
    ],
)
def test_rare_classes_that_weigh_less_on_purpose(weights, shares, distance):
    loss = nn.CrossEntropyLoss(weight=torch.tensor(weights))
    run = fit(lambda: Program(mlp(12, len(weights)), loss), clouds(shares, distance), epochs=12)
    assert alarms(run) == []
