"""Healthy programs whose outputs depend on more, or on less, than a naive look would allow."""

import itertools
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, sequences


def loader(*tensors, batch=32, **options):
    return DataLoader(TensorDataset(*tensors), batch_size=batch, shuffle=True, **options)


def language(*, n=256, length=20, vocabulary=15):
    """Token ids from 2 on; each is one to three steps after the one before."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 4, (n, length), generator=generator).cumsum(1)
    start = torch.randint(0, vocabulary, (n, 1), generator=generator)
    return (steps + start) % vocabulary + 2


def waves(*, n=256, length=24):
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(n, 1, 2, generator=generator)
    time = torch.arange(float(length))[:, None] * torch.tensor([0.5, 0.9])
    return (time + phase).sin() + 0.1 * torch.randn(n, length, 2, generator=generator)


def padded(*, low=4):
    """Sequences of 4 to 16 tokens, padded with 0, and a class."""
    ids = sequences().dataset.tensors[0].clone()
    ids[torch.arange(16) >= torch.arange(len(ids))[:, None] % (17 - low) + low] = 0
    return ids, ((ids == 1).sum(1) > (ids == 2).sum(1)).long()


def mlp(*widths):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# -- samples that meet ---------------------------------------------------------------------------


class Clip(Program):
    """Two towers; forward returns the similarities of all pairs."""

    def __init__(self):
        super().__init__(mlp(64, 32, 16))
        self.other = mlp(64, 32, 16)

    def forward(self, x, y):
        x, y = F.normalize(self.net(x), dim=1), F.normalize(self.other(y), dim=1)
        return 5.0 * x @ y.T

    def training_step(self, batch, batch_idx):
        x, _ = batch
        logits = self(x + 0.1 * torch.randn_like(x), x)
        return F.cross_entropy(logits, torch.arange(len(x)))


class SimClr(Program):
    """Both views go through the encoder as one batch; the loss compares all of them."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        views = torch.cat([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)])
        z = F.normalize(self(views), dim=1)
        similarity = (5.0 * z @ z.T).fill_diagonal_(float("-inf"))
        return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(x)))


class Mixup(Program):
    """Images and labels mixed in the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        share = torch.distributions.Beta(0.4, 0.4).sample()
        order = torch.randperm(len(x))
        logits = self(share * x + (1 - share) * x[order])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])


class HiddenMixup(Program):
    """Features mixed between two halves of the net."""

    def __init__(self):
        super().__init__(mlp(64, 32, 32))
        self.head = mlp(32, 32, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h, order, share = self.net(x), torch.randperm(len(x)), torch.rand(())
        logits = self.head(share * h + (1 - share) * h[order])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])


class Standardised(Program):
    """The step standardises a batch by its own statistics."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self((x - x.mean(0)) / (x.std(0) + 0.1)), y)


class Capacity(nn.Module):
    """Experts that take so many samples and no more."""

    def __init__(self, tokens=False):
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(20, 8), nn.Flatten()) if tokens else nn.Identity()
        width = 128 if tokens else 64
        self.gate = nn.Linear(width, 2)
        signs = torch.arange(width) % 2 * 2.0 - 1.0
        self.gate.weight.data = torch.stack([signs, -signs]) / width**0.5
        self.experts = nn.ModuleList(mlp(width, 32, 10) for _ in range(2))

    def forward(self, x):
        x = self.embed(x)
        weights = self.gate(x).softmax(1)
        best = F.one_hot(weights.argmax(1), 2)
        best = best * (best.cumsum(0) <= len(x) // 3)
        out = torch.stack([expert(x) for expert in self.experts], 1)
        return (out * (weights * best)[..., None]).sum(1) + self.experts[0](x)


class BatchStatistics(nn.Module):
    """Batch norm that keeps no statistics."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8, track_running_stats=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 10),
        )

    def forward(self, x):
        return self.body(x)


class Discriminator(nn.Module):
    """Sees how much the samples of a batch differ."""

    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(2, 32), nn.Linear(33, 1)

    def forward(self, x):
        h = F.leaky_relu(self.body(x))
        spread = h.std(0).mean().expand(len(h), 1)
        return self.head(torch.cat([h, spread], 1))


class Gan(pl.LightningModule):
    """A generator and a discriminator, each with an optimizer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = mlp(4, 32, 2), Discriminator()

    def training_step(self, batch, batch_idx):
        (real,) = batch
        first, second = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))
        right, wrong = self.discriminator(real), self.discriminator(fake.detach())
        loss = F.softplus(-right).mean() + F.softplus(wrong).mean()
        second.zero_grad()
        self.manual_backward(loss)
        second.step()
        loss = F.softplus(-self.discriminator(fake)).mean()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()

    def configure_optimizers(self):
        return [
            optim.Adam(part.parameters(), lr=1e-3, betas=(0.5, 0.9))
            for part in (self.generator, self.discriminator)
        ]


class Graph(Program):
    """Nodes that look at their neighbours; a batch is one graph, or several in one."""

    def __init__(self):
        super().__init__(mlp(8, 32))
        self.head = mlp(32, 32, 3)

    def training_step(self, batch, batch_idx):
        x, adjacency, y = batch
        h = adjacency @ self.net(x).relu()
        return F.cross_entropy(self.head(h), y)


def graphs():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(16):
        x = torch.randn(24, 8, generator=generator)
        near = (torch.cdist(x, x) < 3.0).float()
        adjacency = near / near.sum(1, keepdim=True)
        found.append((x, adjacency, (adjacency @ x)[:, :3].argmax(1)))
    return found


class TimeFirst(Program):
    """Batches of shape (time, samples) through a recurrent net with its defaults."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 16))
        self.rnn, self.head = nn.LSTM(16, 16), nn.Linear(16, 20)

    def training_step(self, batch, batch_idx):
        ids, target = batch
        out = self.head(self.rnn(self.net(ids))[0])
        return F.cross_entropy(out.flatten(0, 1), target.flatten())


def time_first():
    ids = language()

    def collate(items):
        rows = torch.stack(items)
        return rows[:, :-1].T.contiguous(), rows[:, 1:].T.contiguous()

    return DataLoader(list(ids), batch_size=32, shuffle=True, collate_fn=collate, drop_last=True)


class Sorted(Program):
    """Sentences by their length, as packing wants them; classes go along, or answers come back."""

    def __init__(self, back):
        super().__init__(nn.Embedding(20, 16))
        self.rnn, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 2)
        self.back = back

    def training_step(self, batch, batch_idx):
        ids, y = batch
        order = ids[:, 0].argsort(descending=True, stable=True)
        logits = self.head(self.rnn(self.net(ids[order]))[0].mean(1))
        if self.back:
            return F.cross_entropy(logits[order.argsort()], y)
        return F.cross_entropy(logits, y[order])


class Folded(Program):
    """Rows of all images as one long batch of rows, and back again."""

    def __init__(self):
        super().__init__(nn.Linear(8, 16))
        self.head = nn.Linear(8 * 16, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        rows = self.net(x.view(-1, 8)).relu()
        return F.cross_entropy(self.head(rows.view(len(x), -1)), y)


class Rolled(Program):
    """Tells whether two images belong to one class: each, and its neighbour in the batch."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        near = self(x) * self(x.roll(1, 0))
        return F.binary_cross_entropy_with_logits(near.sum(1), (y == y.roll(1)).float())


class Stateful(Program):
    """The state of a recurrent net goes on from batch to batch."""

    def __init__(self):
        super().__init__(nn.GRU(2, 16, batch_first=True))
        self.head, self.state = nn.Linear(16, 2), None

    def training_step(self, batch, batch_idx):
        (x,) = batch
        if self.state is not None and self.state.shape[1] != len(x):
            self.state = None
        out, state = self.net(x[:, :-1], self.state)
        self.state = state.detach()
        return F.mse_loss(self.head(out), x[:, 1:])


class Negatives(Program):
    """Pairs that belong together, and the same rolled over the batch."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        left, right = x[:, :32], x[:, 32:]
        pairs = torch.cat([torch.cat([left, right], 1), torch.cat([left, right.roll(1, 0)], 1)])
        target = torch.cat([torch.ones(len(x)), torch.zeros(len(x))])
        return F.binary_cross_entropy_with_logits(self(pairs).squeeze(1), target)


class Triplets(Program):
    """Each sample against its hardest neighbours of the batch."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = F.normalize(self(x), dim=1)
        far = torch.cdist(z, z)
        same = y[:, None] == y
        near = (far + 4.0 * same).min(1).values
        return F.softplus(far.masked_fill(~same, 0.0).max(1).values - near).mean()


class Adapted(Program):
    """Predicts after one step of gradient descent on the batch."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        head = torch.zeros(10, 32, requires_grad=True)
        h = self.net(x)
        loss = F.cross_entropy(F.linear(h, head), y)
        (slope,) = torch.autograd.grad(loss, head, create_graph=True)
        return F.cross_entropy(F.linear(h, head - slope), y)


class Prototypical(Program):
    """Half of a batch tells what the classes look like, the other half is classified."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z, known = self(x), F.one_hot(y[::2], 10).to(x.dtype)
        centres = known.T @ z[::2] / (known.sum(0)[:, None] + 1e-3)
        return F.cross_entropy(-torch.cdist(z[1::2], centres).square(), y[1::2])


MIXED = [
    pytest.param(lambda: Prototypical(mlp(64, 32, 16)), digits(), id="prototypes"),
    pytest.param(Clip, digits(), id="CLIP"),
    pytest.param(lambda: SimClr(mlp(64, 32, 16)), digits(), id="SimCLR"),
    pytest.param(lambda: Mixup(mlp(64, 32, 10)), digits(), id="mixup"),
    pytest.param(HiddenMixup, digits(), id="mixup of features"),
    pytest.param(lambda: Standardised(mlp(64, 32, 10)), digits(), id="standardised in the step"),
    pytest.param(lambda: Program(Capacity()), digits(), id="experts with a capacity"),
    pytest.param(
        lambda: Program(Capacity(tokens=True)), sequences(), id="experts with a capacity, on ids"
    ),
    pytest.param(lambda: Program(BatchStatistics()), digits(flat=False), id="batch statistics"),
    pytest.param(
        Gan,
        loader(torch.randn(512, 2, generator=torch.Generator().manual_seed(0)).tanh()),
        id="minibatch standard deviation",
    ),
    pytest.param(
        Graph, DataLoader(graphs(), collate_fn=lambda items: items[0]), id="graphs, collated"
    ),
    pytest.param(Graph, DataLoader(graphs(), batch_size=None), id="graphs"),
    pytest.param(TimeFirst, time_first(), id="time first"),
    pytest.param(Stateful, loader(waves()), id="stateful"),
    pytest.param(lambda: Negatives(mlp(64, 32, 1)), digits(), id="rolled negatives"),
    pytest.param(lambda: Triplets(mlp(64, 32, 16)), digits(), id="triplets"),
    pytest.param(lambda: Adapted(mlp(64, 32, 32)), digits(), id="inner loop"),
    pytest.param(lambda: Sorted(True), sequences(), id="sorted by length and back"),
    pytest.param(lambda: Sorted(False), sequences(), id="sorted by length with its classes"),
    pytest.param(Folded, digits(), id="rows as samples"),
    pytest.param(lambda: Rolled(mlp(64, 32, 16)), digits(), id="pairs of neighbours"),
]


@pytest.mark.parametrize(("module", "data"), MIXED)
def test_samples_that_meet(module, data):
    assert alarms(fit(module, data, epochs=1)) == []


# -- targets that are in the input ---------------------------------------------------------------


class Block(nn.Module):
    """An embedding with positions, a layer of attention, a head."""

    def __init__(self, vocabulary=17, outputs=17):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16)
        self.position = nn.Parameter(0.1 * torch.randn(20, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, outputs)

    def forward(self, ids, mask=None):
        h = self.embed(ids) + self.position[: ids.shape[1]]
        return self.head(self.layer(h, src_mask=mask))


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


class MaskedTokens(Program):
    """A bidirectional model of tokens that it does not see."""

    def __init__(self):
        super().__init__(Block())

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        hidden = torch.rand(ids.shape) < 0.3
        logits = self.net(ids.masked_fill(hidden, 1))
        return F.cross_entropy(logits.transpose(1, 2), ids.masked_fill(~hidden, -100))


class Tagger(Program):
    """Each token is tagged by its neighbours."""

    def __init__(self):
        super().__init__(Block(outputs=2))

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        tags = (ids.roll(-1, 1) > ids).long()
        return F.cross_entropy(self.net(ids).flatten(0, 1), tags.flatten())


class Prefix(Program):
    """The first half is seen as a whole, and only the second is predicted."""

    def __init__(self):
        super().__init__(Block())

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        mask = causal(19)
        mask[:10, :10] = False
        target = ids[:, 1:].clone()
        target[:, :9] = -100
        return F.cross_entropy(self.net(ids[:, :-1], mask).flatten(0, 1), target.flatten())


class OwnShift(Program):
    """Ids and labels are the same tensor, and the model shifts; returns a loss as well."""

    def __init__(self):
        super().__init__(Block())

    def forward(self, ids, labels):
        logits = self.net(ids, causal(ids.shape[1]))
        target = labels[:, 1:].reshape(-1)
        return F.cross_entropy(logits[:, :-1].reshape(len(target), -1), target), logits

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        return self(ids, ids.clone())[0]


class ShiftRight(Program):
    """A start token is put in front within the model; the target is the input itself."""

    def __init__(self):
        super().__init__(Block())

    def forward(self, ids):
        started = F.pad(ids[:, :-1], (1, 0))
        return self.net(started, causal(ids.shape[1]))

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        return F.cross_entropy(self(ids).transpose(1, 2), ids)


class Translation(Program):
    """An encoder of a source and a decoder of a target that may be its copy or its reverse."""

    def __init__(self, reverse):
        super().__init__(nn.Embedding(17, 16))
        self.encoder = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.attend = nn.MultiheadAttention(16, 2, kdim=32, vdim=32, batch_first=True)
        self.decoder, self.head = nn.GRU(16, 16, batch_first=True), nn.Linear(32, 17)
        self.reverse = reverse

    def forward(self, source, given):
        memory, _ = self.encoder(self.net(source))
        h, _ = self.decoder(self.net(given))
        seen, _ = self.attend(h, memory, memory)
        return self.head(torch.cat([h, seen], 2))

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        target = ids.flip(1) if self.reverse else ids
        logits = self(ids, F.pad(target, (1, 0))[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), target)


class BothSides(Program):
    """Guesses each token from those before it and those after it."""

    def __init__(self):
        super().__init__(nn.Embedding(17, 16))
        self.left, self.right = (nn.GRU(16, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(32, 17)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        h = self.net(ids)
        before, after = self.left(h)[0][:, :-2], self.right(h.flip(1))[0].flip(1)[:, 2:]
        logits = self.head(torch.cat([before, after], 2))
        return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:-1])


class LinearAttention(Program):
    """Sums over the past instead of attention."""

    def __init__(self):
        super().__init__(nn.Embedding(17, 16))
        self.project, self.head = nn.Linear(16, 48), nn.Linear(16, 17)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        q, k, v = self.project(self.net(ids[:, :-1])).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        memory = torch.einsum("bti,btj->btij", k, v).cumsum(1)
        out = torch.einsum("bti,btij->btj", q, memory)
        out = out / torch.einsum("bti,bti->bt", q, k.cumsum(1))[..., None]
        return F.cross_entropy(self.head(out).flatten(0, 1), ids[:, 1:].flatten())


class CausalConvolution(Program):
    """Convolutions over the past, with batch norm, on ids."""

    def __init__(self):
        super().__init__(nn.Embedding(17, 16))
        self.first, self.second = nn.Conv1d(16, 32, 3), nn.Conv1d(32, 17, 3, dilation=2)
        self.norm = nn.BatchNorm1d(32)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        h = self.net(ids[:, :-1]).transpose(1, 2)
        h = self.norm(self.first(F.pad(h, (2, 0)))).relu()
        return F.cross_entropy(self.second(F.pad(h, (4, 0))), ids[:, 1:])


class Reconstruction(Program):
    """An autoencoder of series: of the whole, or step by step."""

    def __init__(self, whole):
        super().__init__(nn.LSTM(2, 16, batch_first=True))
        self.decoder, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 2)
        self.whole = whole

    def training_step(self, batch, batch_idx):
        (x,) = batch
        h, (last, _) = self.net(x)
        h = last[-1][:, None].expand_as(h) if self.whole else h
        return F.mse_loss(self.head(self.decoder(h)[0]), x)


class Denoising(Program):
    """Takes noise off a series, with a look ahead."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv1d(2, 16, 5, padding=2), nn.ReLU()))
        self.head = nn.Conv1d(16, 2, 5, padding=2)

    def training_step(self, batch, batch_idx):
        x = batch[0].transpose(1, 2)
        noise = torch.randn_like(x)
        return F.mse_loss(self.head(self.net(x + 0.5 * noise)), noise)


class Forecast(Program):
    """A window and what comes after it."""

    def __init__(self):
        super().__init__(mlp(32, 32, 16))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return F.mse_loss(self(x[:, :16].flatten(1)), x[:, 16:].flatten(1))


class Delay(Program):
    """Says what it has heard three steps ago."""

    def __init__(self):
        super().__init__(nn.Embedding(17, 16))
        self.rnn, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 17)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        logits = self.head(self.rnn(self.net(ids))[0])[:, 3:]
        return F.cross_entropy(logits.transpose(1, 2), ids[:, :-3])


def periodic():
    """Sequences that repeat themselves."""
    return language(length=5).repeat(1, 4)


TARGETS = [
    pytest.param(MaskedTokens, loader(language()), id="masked tokens"),
    pytest.param(Tagger, loader(language()), id="tagger"),
    pytest.param(Prefix, loader(language()), id="prefix"),
    pytest.param(OwnShift, loader(language()), id="shift in the model"),
    pytest.param(ShiftRight, loader(language()), id="start token in the model"),
    pytest.param(partial(Translation, reverse=False), loader(language()), id="copy"),
    pytest.param(partial(Translation, reverse=True), loader(language()), id="reverse"),
    pytest.param(BothSides, loader(language()), id="from both sides"),
    pytest.param(LinearAttention, loader(language()), id="linear attention"),
    pytest.param(CausalConvolution, loader(language()), id="causal convolution"),
    pytest.param(partial(Reconstruction, whole=True), loader(waves()), id="autoencoder"),
    pytest.param(partial(Reconstruction, whole=False), loader(waves()), id="step by step"),
    pytest.param(Denoising, loader(waves()), id="diffusion"),
    pytest.param(Forecast, loader(waves()), id="forecast"),
    pytest.param(Delay, loader(language()), id="delay"),
    pytest.param(MaskedTokens, loader(periodic()), id="periodic, masked"),
    pytest.param(Tagger, loader(periodic()), id="periodic, tagged"),
]


@pytest.mark.parametrize(("module", "data"), TARGETS)
def test_targets_in_the_input(module, data):
    assert alarms(fit(module, data, epochs=1)) == []


# -- padding -------------------------------------------------------------------------------------


class Packed(nn.Module):
    """A recurrent net that is told the lengths."""

    def __init__(self, pack):
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.rnn, self.head = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 2)
        self.pack = pack

    def forward(self, ids):
        h, lengths = self.embed(ids), (ids > 0).sum(1)
        if self.pack:
            h = nn.utils.rnn.pack_padded_sequence(h, lengths, True, enforce_sorted=False)
        return self.head(self.rnn(h)[1][0][-1])


class Summed(nn.Module):
    """Convolutions and a mean that read padding; no attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.body, self.head = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids).transpose(1, 2)).relu().mean(2))


class MaskedAttention(nn.Module):
    """Attention with the mask that torch wants in each place."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.position = nn.Parameter(0.1 * torch.randn(16, 16))
        if kind not in ("additive", "product"):
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 2)
        self.kind = kind

    def forward(self, ids):
        real = ids > 0
        h = self.embed(ids)
        h = h + (self.position if self.kind == "fixed" else self.position[: ids.shape[1]])
        if self.kind == "additive":
            q = h.view(*h.shape[:2], 2, 8).transpose(1, 2)
            scores = q @ q.transpose(2, 3) / 3 + (~real)[:, None, None] * torch.finfo(h.dtype).min
            h = h + (scores.softmax(-1) @ q).transpose(1, 2).flatten(2)
        elif self.kind == "product":
            h = h + F.scaled_dot_product_attention(h, h, h, attn_mask=real[:, None])
        else:
            h = h + self.attend(h, h, h, key_padding_mask=~real, need_weights=False)[0]
        h = h * real[..., None]
        return self.head(h.sum(1) / real.sum(1, keepdim=True))


class PaddedDecoder(Program):
    """A causal model; padding is on the right and is not in the loss."""

    def __init__(self):
        super().__init__(Block(20, 20))

    def training_step(self, batch, batch_idx):
        ids, _ = batch
        logits = self.net(ids[:, :-1], causal(ids.shape[1] - 1))
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


PADDING = [
    pytest.param(lambda: Program(Packed(True)), id="packed"),
    pytest.param(lambda: Program(Packed(False)), id="recurrent over padding"),
    pytest.param(lambda: Program(Summed()), id="convolution over padding"),
    *(
        pytest.param(lambda kind=kind: Program(MaskedAttention(kind)), id=kind)
        for kind in ("additive", "product", "key padding", "fixed")
    ),
    pytest.param(PaddedDecoder, id="causal"),
]


@pytest.mark.parametrize("module", PADDING)
def test_padding(module):
    assert alarms(fit(module, loader(*padded()), epochs=1)) == []


# -- inputs that do little -----------------------------------------------------------------------


class Opening(Program):
    """A branch whose gate is closed at the start."""

    def __init__(self):
        super().__init__(mlp(32, 32, 10))
        self.side, self.gate = mlp(32, 32, 10), nn.Parameter(torch.zeros(()))

    def forward(self, left, right):
        return self.net(left) + self.gate * self.side(right)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x[:, :32], x[:, 32:]), y)


class Extras(Program):
    """Is given a mask, lengths and indices that it does not need, and a dict of all."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 16, padding_idx=0))
        self.rnn, self.head = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, ids, mask=None, lengths=None, index=None, **rest):
        return self.head(self.rnn(self.net(ids))[0].mean(1))

    def training_step(self, batch, batch_idx):
        ids, y, index = batch
        everything = {"ids": ids, "mask": ids > 0, "lengths": (ids > 0).sum(1), "index": index}
        return F.cross_entropy(self(**everything, labels=y), y)


class Margin(Program):
    """Labels are used by forward in training only."""

    def __init__(self):
        super().__init__(mlp(64, 32, 16))
        self.classes = nn.Parameter(torch.randn(10, 16))

    def forward(self, x, labels=None):
        cosine = F.normalize(self.net(x), dim=1) @ F.normalize(self.classes, dim=1).T
        if self.training:
            cosine = cosine - 0.1 * F.one_hot(labels, 10)
        return 4.0 * cosine

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x, y), y)


class Dropped(Program):
    """One of two inputs is left out at random in training."""

    def __init__(self):
        super().__init__(mlp(32, 32, 10))
        self.side = mlp(32, 32, 10)

    def forward(self, left, right):
        out = self.net(left)
        if not self.training or torch.rand(()) < 0.3:
            out = out + self.side(right)
        return out

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x[:, :32], x[:, 32:]), y)


class Halves(Program):
    """Two encoders, each for a half of the columns; or the other half is the target."""

    def __init__(self, target):
        super().__init__(mlp(64 if target else 32, 32, 32 if target else 10))
        self.side = None if target else mlp(32, 32, 10)
        self.target = target

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.target:
            return F.mse_loss(self(x), x[:, 32:])
        return F.cross_entropy(self.net(x[:, :32]) + self.side(x[:, 32:]), y)

    def forward(self, x):
        return self.net(x * (torch.arange(64) < 32))


class Summary(Program):
    """A class token reads the rows of an image."""

    def __init__(self):
        super().__init__(nn.Linear(8, 16))
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        h = torch.cat([self.token.expand(len(x), 1, -1), self.net(x.squeeze(1))], 1)
        return self.head(self.layer(h)[:, 0])


class Hard(nn.Module):
    """Rounds its input to a few codes, and lets the gradient through."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(64, 32, 4), mlp(4, 32, 10)

    def forward(self, x):
        code = 4.0 * self.encoder(x)
        return self.decoder(code + (code.round() - code).detach())


INPUTS = [
    pytest.param(Opening, digits(), id="gate"),
    pytest.param(Extras, loader(*padded(), torch.arange(512)), id="extras"),
    pytest.param(Margin, digits(), id="labels with a margin"),
    pytest.param(Dropped, digits(), id="input left out at random"),
    pytest.param(partial(Halves, target=False), digits(), id="halves"),
    pytest.param(partial(Halves, target=True), digits(), id="other half"),
    pytest.param(Summary, digits(flat=False), id="class token"),
    pytest.param(lambda: Program(Hard()), digits(), id="rounding"),
]


@pytest.mark.parametrize(("module", "data"), INPUTS)
def test_inputs_that_do_little(module, data):
    assert alarms(fit(module, data, epochs=1)) == []


# -- targets that are the input in other units -----------------------------------------------------


class Scaled(Program):
    """Predicts a number from a table or a window; the step brings both to a common scale."""

    def __init__(self, size):
        super().__init__(mlp(size, 32, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x.flatten(1) / 10.0).squeeze(1), (y - 5.0) / 10.0)


class Rebuilt(Program):
    """Makes a series anew from a code of all of it; the target is normalised by the step."""

    def __init__(self, noise=0.0):
        super().__init__(nn.GRU(2, 16, batch_first=True, bidirectional=True))
        self.head, self.noise = nn.Linear(32, 2), noise

    def training_step(self, batch, batch_idx):
        (x,) = batch
        target = (x - 0.2) / torch.tensor([0.7, 0.8])
        given = x + self.noise * torch.randn_like(x)
        return F.mse_loss(self.head(self.net(given)[0]), target)


class Next(Program):
    """Forecasts each step of a series, which the step normalises, without looking ahead."""

    def __init__(self, *, residual=False):
        super().__init__(nn.GRU(2, 16, batch_first=True))
        self.head, self.residual = nn.Linear(16, 2), residual

    def training_step(self, batch, batch_idx):
        (x,) = batch
        x = (x - 0.2) / 0.7
        target = x[:, 1:] - x[:, :-1] if self.residual else x[:, 1:]
        return F.mse_loss(self.head(self.net(x[:, :-1])[0]), target)


class Slopes(Program):
    """A bidirectional tagger of straight lines: each step is the one before and a bit more."""

    def __init__(self):
        super().__init__(nn.GRU(1, 16, batch_first=True, bidirectional=True))
        self.head = nn.Linear(32, 1)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return F.mse_loss(self.head(self.net(x)[0]), 0.1 * x.cumsum(1) / 24.0)


def table():
    """A target that is one column, in another unit."""
    x = 10.0 * torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    return loader(x, 1.8 * x[:, 2] + 32.0)


def lines():
    start = torch.rand(256, 1, 1, generator=torch.Generator().manual_seed(0))
    return loader(start + 0.05 * torch.arange(24.0)[:, None])


def leaks(suite):
    return [alarm for alarm in alarms(suite) if "future-leak" in alarm]


@pytest.mark.parametrize(
    ("module", "data"),
    [
        pytest.param(lambda: Scaled(6), table(), id="other unit"),
        pytest.param(
            lambda: Scaled(46), loader(waves()[:, :-1], waves()[:, -1, 0]), id="window before it"
        ),
        pytest.param(Rebuilt, loader(waves()), id="autoencoder"),
        pytest.param(lambda: Rebuilt(0.3), loader(waves()), id="denoiser"),
        pytest.param(Next, loader(waves()), id="forecast"),
        pytest.param(lambda: Next(residual=True), loader(waves()), id="differences"),
        pytest.param(Slopes, lines(), id="straight lines"),
    ],
)
def test_other_units(module, data):
    assert leaks(fit(module, data, epochs=1)) == []
