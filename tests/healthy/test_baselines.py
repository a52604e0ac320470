"""Sound programs that a simple model might beat, or whose labels are hard to tell."""

import functools

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.runs import Program, alarms, digits, fit, regression, sequences

SGD = functools.partial(optim.SGD, lr=0.01)
ADAM = functools.partial(optim.Adam, lr=3e-3)


def mlp(inputs=64, outputs=10, hidden=32):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loader(*tensors, batch=32, shuffle=True):
    return DataLoader(TensorDataset(*tensors), batch_size=batch, shuffle=shuffle)


# -- still learning, or made to learn little ----------------------------------------------------


def thrifty():
    """A network with much dropout."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.7), nn.Linear(64, 10))
    return Program(net, optimizer=ADAM)


def probed():
    """A head on random convolutions that are not trained."""
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 10)
    )
    net[0].requires_grad_(False)
    return Program(net, optimizer=lambda p: optim.Adam([q for q in p if q.requires_grad], 3e-3))


def pooled():
    """As small as a convolutional network can be."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    return Program(net, optimizer=ADAM)


def deep():
    """A residual network with batch norm, at a low learning rate."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64))

        def forward(self, x):
            return x + self.net(x)

    net = nn.Sequential(*(Block() for _ in range(6)), nn.BatchNorm1d(64), nn.Linear(64, 10))
    return Program(net, optimizer=functools.partial(optim.Adam, lr=1e-4))


def noisy_labels():
    x, y = digits().dataset.tensors
    wrong = torch.rand(len(y), generator=generator()) < 0.5
    return loader(x, torch.where(wrong, torch.randint(0, 10, y.shape, generator=generator()), y))


def product():
    """The product of two features, for a model that is linear on purpose."""
    x = torch.randn(512, 4, generator=generator())
    return loader(x, x[:, :1] * x[:, 1:2] + 0.3 * x[:, 2:3])


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(lambda: Program(mlp(), optimizer=SGD), digits, 2, id="a short run"),
        pytest.param(lambda: Program(mlp(), optimizer=SGD), digits, 8, id="a slow run"),
        pytest.param(thrifty, digits, 4, id="dropout"),
        pytest.param(probed, lambda: digits(flat=False), 4, id="random features"),
        pytest.param(pooled, lambda: digits(flat=False), 6, id="a small network"),
        pytest.param(deep, digits, 4, id="a deep network, slowly"),
        pytest.param(lambda: Program(mlp(), optimizer=ADAM), noisy_labels, 4, id="label noise"),
        pytest.param(
            lambda: Program(nn.Linear(4, 1), F.mse_loss, functools.partial(optim.Adam, lr=1e-2)),
            product,
            10,
            id="a linear model",
        ),
    ],
)
def test_learning_little(module, data, epochs):
    assert alarms(fit(module, data(), epochs=epochs)) == []


# -- losses that are more than a comparison -----------------------------------------------------


class Mixup(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        share, order = 0.5 + 0.5 * torch.rand(()), torch.randperm(len(x))
        logits = self(share * x + (1 - share) * x[order])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])


class Focal(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y, reduction="none")
        return ((1 - (-loss).exp()) ** 2 * loss).mean()


class Weighted(Program):
    """Cares for the rare class above all."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y, weight=torch.tensor([0.05, 0.95]))


class Quantile(Program):
    def training_step(self, batch, batch_idx):
        x, y = batch
        gap = y - self(x)
        return torch.maximum(0.95 * gap, -0.05 * gap).mean()


class Denoising(Program):
    """A narrow autoencoder; a pixel is best told by the noisy pixel itself."""

    def training_step(self, batch, batch_idx):
        noisy, clean = batch
        return F.mse_loss(self(noisy), clean)


class Twofold(Program):
    """Two tasks; the second one is only a helper."""

    def __init__(self):
        super().__init__(mlp(64, 32))
        self.heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 1)])

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x).relu()
        ink = F.mse_loss(self.heads[1](hidden)[:, 0], x.mean(1))
        return F.cross_entropy(self.heads[0](hidden), y) + 10.0 * ink


class Told(Program):
    """The batch holds more than the model is given: what the answer can be read off."""

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch["x"]), batch["y"])
        self.log("mean_id", batch["answer"].float().mean())
        return loss


def imbalanced():
    y = (torch.rand(768, generator=generator()) < 0.1).long()
    return loader(torch.randn(768, 16, generator=generator(1)) + 0.5 * y[:, None], y)


def noised():
    x, _ = digits().dataset.tensors
    return loader(x + 0.2 * torch.randn(x.shape, generator=generator()), x)


class Named(torch.utils.data.Dataset):
    """Samples of two faint features, whose label is stored with them in another form."""

    def __init__(self):
        x = torch.randn(512, 6, generator=generator())
        self.x, self.y = x, ((x[:, 0] + 1.5 * torch.randn(512, generator=generator(1))) > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        answer = F.one_hot(self.y[i], 2).float()
        return {"x": self.x[i], "y": self.y[i], "answer": answer, "row": i}


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(lambda: Mixup(mlp(), optimizer=ADAM), digits, 4, id="mixup"),
        pytest.param(lambda: Focal(mlp(), optimizer=ADAM), digits, 4, id="focal"),
        pytest.param(lambda: Weighted(mlp(16, 2), optimizer=ADAM), imbalanced, 6, id="weights"),
        pytest.param(
            lambda: Quantile(mlp(8, 1), optimizer=ADAM), regression, 8, id="a high quantile"
        ),
        pytest.param(lambda: Denoising(mlp(64, 64, 8), optimizer=ADAM), noised, 6, id="denoising"),
        pytest.param(Twofold, digits, 4, id="two tasks"),
        pytest.param(
            lambda: Told(mlp(6, 2), optimizer=ADAM),
            lambda: DataLoader(Named(), batch_size=32, shuffle=True),
            8,
            id="a batch that tells the answer",
        ),
    ],
)
def test_other_objectives(module, data, epochs):
    assert alarms(fit(module, data(), epochs=epochs)) == []


# -- sequences, series, pixels, ids --------------------------------------------------------------


class LanguageModel(Program):
    """Words that follow from the two before them."""

    def __init__(self):
        super().__init__(nn.Embedding(16, 24), optimizer=functools.partial(optim.Adam, lr=1e-2))
        self.rnn, self.head = nn.GRU(24, 48, batch_first=True), nn.Linear(48, 16)

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        logits = self.head(self.rnn(self.net(ids[:, :-1]))[0])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def text():
    ids = torch.randint(0, 16, (384, 2), generator=generator())
    for _ in range(14):
        follows = (3 * ids[:, -1] + ids[:, -2]) % 16
        lost = torch.rand(len(ids), generator=generator(ids.shape[1])) < 0.2
        random = torch.randint(0, 16, follows.shape, generator=generator(ids.shape[1]))
        ids = torch.cat([ids, torch.where(lost, random, follows)[:, None]], 1)
    return loader(ids)


class Forecast(Program):
    def __init__(self):
        super().__init__(nn.LSTM(1, 24, batch_first=True), optimizer=ADAM)
        self.head = nn.Linear(24, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.head(self.net(x)[0][:, -1]), y)


def walk():
    """A random walk, of which nothing is better known than where it is."""
    series = torch.randn(700, generator=generator()).cumsum(0)
    windows = ((series - series.mean()) / series.std()).unfold(0, 17, 1)
    return loader(windows[:, :16, None], windows[:, 16:])


class Classified(Program):
    """A sequence of ids to a class."""

    def __init__(self):
        super().__init__(nn.Embedding(20, 16), optimizer=ADAM)
        self.rnn, self.head = nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.net(ids))[0].mean(1))


class Factors(Program):
    """Users and items, learned by heart."""

    def __init__(self):
        super().__init__(nn.Embedding(60, 16), optimizer=functools.partial(optim.Adam, lr=3e-2))
        self.items = nn.Embedding(60, 16)
        for table in (self.net, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def training_step(self, batch, batch_idx):
        user, item, rating = batch
        return F.mse_loss((self.net(user) * self.items(item)).sum(1), rating)


def ratings():
    users, items = torch.randint(0, 60, (2, 800), generator=generator())
    taste, kind = torch.randn(2, 60, 2, generator=generator(1))
    return loader(users, items, (taste[users] * kind[items]).sum(1))


class Edges(Program):
    """What is an edge, pixel by pixel."""

    def __init__(self):
        net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1))
        super().__init__(net, optimizer=functools.partial(optim.Adam, lr=1e-2))


def edges():
    x, _ = digits(flat=False).dataset.tensors
    return loader(x[:512], ((x - F.avg_pool2d(x, 3, 1, 1)).abs() > 0.15).long()[:512, 0])


class Scaled(Program):
    """Targets in thousands, brought to scale in the step, and optimized by hand."""

    def __init__(self):
        super().__init__(mlp(8, 1), optimizer=ADAM)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.smooth_l1_loss(self(x), (y - 5000.0) / 1000.0)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def thousands():
    x, y = regression().dataset.tensors
    return loader(x, 1000.0 * y + 5000.0)


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(LanguageModel, text, 9, id="language model"),
        pytest.param(Forecast, walk, 6, id="random walk"),
        pytest.param(Classified, sequences, 8, id="sequences"),
        pytest.param(Factors, ratings, 8, id="users and items"),
        pytest.param(Edges, edges, 8, id="pixels"),
        pytest.param(Scaled, thousands, 8, id="targets that are scaled"),
    ],
)
def test_other_data(module, data, epochs):
    assert alarms(fit(module, data(), epochs=epochs)) == []


# -- labels that are hard to tell ---------------------------------------------------------------


def faint():
    """Labels of which the inputs tell a little."""
    x = torch.randn(600, 12, generator=generator())
    told = x[:, 0] + x[:, 1] * x[:, 2] + 3.0 * torch.randn(600, generator=generator(1))
    return loader(x, (told > 0).long())


def crossed():
    """The label is whether two features of six have the same sign."""
    x = torch.randn(800, 6, generator=generator())
    return loader(x, (x[:, :2].prod(1) > 0).long())


def few():
    """Too few samples to tell."""
    x, y = digits(n=96).dataset.tensors
    return loader(x, y[torch.randperm(96, generator=generator())])


@pytest.mark.parametrize(
    ("module", "data", "epochs"),
    [
        pytest.param(lambda: Program(nn.Linear(12, 2)), faint, 12, id="faint"),
        pytest.param(lambda: Program(mlp(12, 2, 64), optimizer=ADAM), faint, 12, id="by heart"),
        pytest.param(lambda: Program(mlp(6, 2, 64), optimizer=ADAM), crossed, 10, id="crossed"),
    ],
)
def test_hard_labels(module, data, epochs):
    found = alarms(fit(module, data(), epochs=epochs))
    assert [alarm for alarm in found if "labels-unrelated" in alarm] == []


def test_few_samples():
    found = alarms(fit(lambda: Program(nn.Linear(64, 10)), few(), epochs=80))
    assert [alarm for alarm in found if "labels-unrelated" in alarm] == []
