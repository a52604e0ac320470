"""Losses, predictions and running means that keep the graphs of all steps alive."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, places, regression, sequences


def mlp(outputs=10, inputs=64):
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


class History(Program):
    """Appends each loss to a list."""

    def __init__(self, keeps):
        super().__init__(mlp())
        self.keeps, self.history = keeps, []

    def training_step(self, batch, batch_idx):
        loss = self.loss(self(batch[0]), batch[1])
        self.history.append(self.keeps(loss))
        return loss


class RunningMean(Program):
    """A convolutional network, and a running mean of its loss."""

    def __init__(self, keeps):
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
        super().__init__(nn.Sequential(*layers))
        self.keeps, self.mean = keeps, 0.0

    def training_step(self, batch, batch_idx):
        loss = self.loss(self(batch[0]), batch[1])
        self.mean = 0.9 * self.mean + 0.1 * self.keeps(loss)
        self.log("mean", float(self.mean))
        return loss


class ByHand(Program):
    """Manual optimization; predictions are kept for a plot, in a dictionary."""

    def __init__(self, keeps):
        super().__init__(mlp(outputs=1, inputs=8), F.mse_loss)
        self.automatic_optimization = False
        self.keeps, self.seen = keeps, {"predictions": []}

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        out = self(x)
        self.seen["predictions"].append([self.keeps(out)])
        loss = self.loss(out, y)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


OUTSIDE = []


class Global(Program):
    """A recurrent network whose losses go to a list of the script."""

    def __init__(self, keeps):
        super().__init__(nn.GRU(8, 16, batch_first=True))
        self.table, self.head, self.keeps = nn.Embedding(20, 8), nn.Linear(16, 2), keeps
        OUTSIDE.clear()

    def training_step(self, batch, batch_idx):
        out, _ = self.net(self.table(batch[0]))
        loss = F.cross_entropy(self.head(out[:, -1]), batch[1])
        OUTSIDE.append(self.keeps(loss))
        return loss


@pytest.mark.parametrize(
    ("program", "data", "place"),
    [
        pytest.param(History, digits, "self.history", id="a list of losses"),
        pytest.param(RunningMean, lambda: digits(flat=False), "self.mean", id="a running mean"),
        pytest.param(ByHand, regression, "self.seen", id="predictions in a dictionary"),
        pytest.param(Global, sequences, "training_step", id="a list of the script"),
    ],
)
def test_graphs_of_all_steps_stay(program, data, place):
    buggy = fit(lambda: program(lambda tensor: tensor), data(), epochs=2)
    assert names(buggy) == {"memory-growth"}
    assert places(buggy, "memory-growth") == {place}
    fixed = fit(lambda: program(torch.Tensor.detach), data(), epochs=2)
    assert alarms(fixed) == []


def test_in_a_run_of_one_epoch_it_is_told_at_the_end():
    suite = fit(lambda: History(lambda loss: loss), digits(), epochs=1)
    assert names(suite) == {"memory-growth"}
