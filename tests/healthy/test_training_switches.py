"""Healthy training in which a part starts later, rarely, or behind zeros."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.healthy.test_training_parts import Residual, lora
from tests.runs import Program, alarms, digits, fit


class TwoHeads(pl.LightningModule):
    """A second head whose loss has a weight: 0 at first, or 0 for this experiment."""

    def __init__(self, weight):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)
        self.decoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
        self.weight = weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)
        reconstruction = F.mse_loss(self.decoder(h), x)
        return F.cross_entropy(self.head(h), y) + self.weight(self.current_epoch) * reconstruction

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class RarePositives(pl.LightningModule):
    """A head that runs on every batch, and has something to learn in one of twelve."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.head, self.box = nn.Linear(64, 10), nn.Linear(64, 64)

    def training_step(self, batch, batch_idx):
        x, y = batch
        h = self.body(x)
        loss, boxes = F.cross_entropy(self.head(h), y), self.box(h)
        if batch_idx % 12 == 11:
            loss = loss + F.mse_loss(boxes, x)
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class LateCritic(pl.LightningModule):
    """An autoencoder with an adversarial loss that starts in the third epoch, at factor 0."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
        self.critic = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        factor = 1.0 if self.current_epoch >= 2 else 0.0
        net, critic = self.optimizers()
        out = self.net(x)
        loss = F.mse_loss(out, x) - 0.1 * factor * self.critic(out).mean()
        net.zero_grad()
        self.manual_backward(loss)
        net.step()
        hinge = F.relu(1 - self.critic(x)).mean() + F.relu(1 + self.critic(out.detach())).mean()
        critic.zero_grad()
        self.manual_backward(factor * hinge)
        critic.step()
        self.log("loss", loss)

    def configure_optimizers(self):
        return (
            optim.Adam(self.net.parameters(), lr=1e-3),
            optim.Adam(self.critic.parameters(), lr=1e-4),
        )


class WarmUp(Program):
    """A warm-up by epoch, so that the first epoch changes nothing."""

    def configure_optimizers(self):
        optimizer = optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)
        schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, epoch / 2))
        return [optimizer], [schedule]


def zero_init_with_warm_up():
    net = nn.Sequential(nn.Linear(64, 32), Residual(32), Residual(32), nn.Linear(32, 10))
    nn.init.zeros_(net[3].weight)
    return WarmUp(net)


class DelayedActor(pl.LightningModule):
    """As in TD3: the actor steps every second batch; both critics every batch."""

    def __init__(self, every=2):
        super().__init__()
        self.automatic_optimization = False
        self.every = every
        self.actor = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh())
        self.critics = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(2)
        )

    def training_step(self, batch, batch_idx):
        state = batch[0][:, :8]
        action = torch.rand(len(state), 2) * 2 - 1
        reward = -(action - state[:, :2]).square().sum(1, keepdim=True)
        actor, critics = self.optimizers()
        both = torch.cat([state, action], 1)
        loss = sum(F.mse_loss(critic(both), reward) for critic in self.critics)
        critics.zero_grad()
        self.manual_backward(loss)
        critics.step()
        if (batch_idx + 1) % self.every == 0:
            value = self.critics[0](torch.cat([state, self.actor(state)], 1))
            actor.zero_grad()
            self.manual_backward(-value.mean())
            actor.step()

    def configure_optimizers(self):
        return (
            optim.Adam(self.actor.parameters(), lr=1e-3),
            optim.Adam(self.critics.parameters(), lr=1e-3),
        )


class Skipping(Program):
    """Batches that are bad are skipped: training_step returns nothing."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 0 else super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(partial(TwoHeads, lambda epoch: min(1.0, epoch / 3)), id="weight from 0"),
        pytest.param(partial(TwoHeads, lambda epoch: 0.0), id="weight of 0"),
        pytest.param(partial(TwoHeads, lambda epoch: 1e-6), id="tiny weight"),
        pytest.param(RarePositives, id="rare positives"),
        pytest.param(LateCritic, id="adversarial loss that starts later"),
        pytest.param(lambda: WarmUp(lora().net), id="LoRA, warm-up by epoch"),
        pytest.param(zero_init_with_warm_up, id="zero-init, warm-up by epoch"),
        pytest.param(DelayedActor, id="delayed actor"),
        pytest.param(partial(DelayedActor, 10), id="much delayed actor"),
        pytest.param(
            lambda: Skipping(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))),
            id="skipped batches",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_switches(program):
    assert alarms(fit(program, digits(), epochs=5)) == []
