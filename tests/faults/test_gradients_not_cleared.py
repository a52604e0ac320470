"""Steps with gradients of the past or of another loss, and the same programs with them cleared."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


class Manual(Program):
    """zero_grad is missing."""

    def __init__(self, broken, net, *, plain=False):
        super().__init__(net)
        self.automatic_optimization = False
        self.broken, self.plain = broken, plain

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        if not self.broken:
            optimizer.zero_grad()
        loss = F.cross_entropy(self(x), y)
        if self.plain:
            loss.backward()
        else:
            self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.02)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[1][0][-1])


class Overridden(Program):
    """Automatic optimization, and a hook that was meant to save time."""

    def __init__(self, broken):
        super().__init__(
            nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
            F.mse_loss,
            lambda ps: optim.Adam(ps, lr=1e-3),
        )
        self.broken = broken

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        if not self.broken:
            optimizer.zero_grad()


class Gan(pl.LightningModule):
    """The generator's loss fills the critic's gradients, and only the generator is cleared."""

    def __init__(self, broken, *, accumulate=1):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g, d = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        g_loss = F.softplus(-self.critic(fake)).mean()
        self.manual_backward(g_loss)
        g.step()
        g.zero_grad()
        if not self.broken:
            d.zero_grad()
        d_loss = F.softplus(-self.critic(real)).mean()
        d_loss = d_loss + F.softplus(self.critic(fake.detach())).mean()
        self.manual_backward(d_loss)
        d.step()
        d.zero_grad()

    def configure_optimizers(self):
        return (
            optim.Adam(self.generator.parameters(), lr=2e-4),
            optim.Adam(self.critic.parameters(), lr=2e-4),
        )


class ActorCritic(pl.LightningModule):
    """The actor's loss goes through the critic, whose gradients nobody clears before its own."""

    def __init__(self, broken):
        super().__init__()
        self.automatic_optimization = False
        self.broken = broken
        self.actor = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        state, reward = batch
        actor, critic = self.optimizers()
        action = self.actor(state)
        if not self.broken:
            critic.zero_grad()
        value = self.critic(torch.cat([state, action.detach()], 1))
        self.manual_backward(F.mse_loss(value, reward))
        critic.step()
        critic.zero_grad()
        actor.zero_grad()
        self.manual_backward(-self.critic(torch.cat([state, action], 1)).mean())
        actor.step()

    def configure_optimizers(self):
        return (
            optim.Adam(self.actor.parameters(), lr=1e-4),
            optim.Adam(self.critic.parameters(), lr=1e-3),
        )


@pytest.mark.parametrize(
    ("program", "data", "where"),
    [
        pytest.param(
            lambda b: Manual(b, nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
            digits(),
            "SGD",
            id="mlp, manual",
        ),
        pytest.param(lambda b: Manual(b, cnn()), digits(flat=False), "SGD", id="cnn, manual"),
        pytest.param(
            lambda b: Manual(b, Text(), plain=True), sequences(), "SGD", id="lstm, plain backward"
        ),
        pytest.param(Overridden, regression(), "Adam", id="mlp, hook overridden"),
        pytest.param(Gan, digits(), "Adam 1", id="gan"),
        pytest.param(ActorCritic, regression(), "Adam 1", id="actor and critic"),
    ],
)
def test_pair(program, data, where):
    broken = fit(lambda: program(True), data, limit_train_batches=10, epochs=1)
    assert "gradients-not-cleared" in names(broken)
    assert where in places(broken, "gradients-not-cleared")
    assert alarms(fit(lambda: program(False), data)) == []
