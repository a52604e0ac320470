"""Programs that keep tensors of earlier steps, and let go of them."""

from collections import deque

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassAUROC

from tests.runs import Program, alarms, digits, fit, sequences


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Keeping(Program):
    """Classifies digits; what it keeps is the trap."""

    def __init__(self):
        super().__init__(mlp())

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = self.loss(logits, batch[1])
        self.keep(logits, loss, batch[1])
        return loss


class UntilTheEpochEnds(Keeping):
    """As the documentation of Lightning has it."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def keep(self, logits, loss, y):
        self.outputs.append(loss)

    def on_train_epoch_end(self):
        self.log("mean", torch.stack(self.outputs).mean())
        self.outputs.clear()


class FromTheEpochsStart(Keeping):
    """What was kept in the last epoch is there until the end."""

    def on_train_epoch_start(self):
        self.outputs = []

    def keep(self, logits, loss, y):
        self.outputs.append({"loss": loss, "logits": logits})


class TheLastOnly(Keeping):
    def keep(self, logits, loss, y):
        self.last = {"logits": logits, "loss": loss}


class AFewRecentOnes(Keeping):
    def __init__(self):
        super().__init__()
        self.recent = deque(maxlen=30)

    def keep(self, logits, loss, y):
        self.recent.append(loss)


class InMetrics(Keeping):
    """A metric keeps what it is given, and is reset after each epoch."""

    def __init__(self):
        super().__init__()
        self.auroc, self.mean, self.all = MulticlassAUROC(10), MeanMetric(), CatMetric()

    def keep(self, logits, loss, y):
        self.auroc(logits.softmax(1), y)
        self.mean(loss)
        self.all.update(loss)
        self.log_dict({"auroc": self.auroc, "mean": self.mean}, on_step=False, on_epoch=True)

    def on_train_epoch_end(self):
        self.all.reset()


class Accumulating(Keeping):
    """Adds up the losses of eight batches by hand before it steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.losses.append(self.loss(self(batch[0]), batch[1]))
        if len(self.losses) == 8:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(torch.stack(self.losses).mean())
            optimizer.step()
            self.losses.clear()


class CarriedState(Program):
    """Truncated backpropagation: the state goes on to the next batch, its graph does not."""

    def __init__(self):
        super().__init__(nn.GRU(8, 16, batch_first=True))
        self.table, self.head, self.state = nn.Embedding(20, 8), nn.Linear(16, 2), None

    def training_step(self, batch, batch_idx):
        fits = self.state is not None and self.state.shape[1] == len(batch[0])
        out, state = self.net(self.table(batch[0]), self.state if fits else None)
        self.state = state.detach()
        return F.cross_entropy(self.head(out[:, -1]), batch[1])


class MemoryBank(Keeping):
    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.zeros(256, 10))

    def keep(self, logits, loss, y):
        self.bank = torch.cat([self.bank, logits.detach()])[-256:]


@pytest.mark.parametrize(
    "program",
    [
        UntilTheEpochEnds,
        FromTheEpochsStart,
        TheLastOnly,
        AFewRecentOnes,
        InMetrics,
        Accumulating,
        CarriedState,
        MemoryBank,
    ],
)
def test_what_is_let_go_of(program):
    data = sequences() if program is CarriedState else digits()
    assert alarms(fit(program, data, epochs=3)) == []


def test_in_one_epoch_nobody_knows_when_it_would_be_let_go_of():
    assert alarms(fit(FromTheEpochsStart, digits(), epochs=1)) == []
