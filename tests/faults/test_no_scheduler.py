"""Long runs at one learning rate, and the same runs with a schedule."""

import pytest
from torch import nn, optim
from torch.optim import lr_scheduler as lr

from lightning_debug import DebugSuite
from lightning_debug.checks import NoScheduler
from tests.runs import Program, alarms, digits, fit, sequences

NAME = "no-scheduler"


class Plain(Program):
    """A classifier with a schedule or without."""

    def __init__(self, net, scheduled):
        super().__init__(net())
        self.scheduled = scheduled

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=1e-3)
        if not self.scheduled:
            return optimizer
        cosine = lr.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


class Manual(Plain):
    """The same in manual optimization; its rate is set by hand."""

    def __init__(self, net, scheduled):
        super().__init__(net, False)
        self.automatic_optimization = False
        self.falls = scheduled

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1.0 - self.global_step / 40) if self.falls else 1e-3
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(x), y))
        optimizer.step()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0][:, -1])


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.parametrize(
    ("program", "net", "data"),
    [
        pytest.param(Plain, mlp, digits(n=512), id="mlp"),
        pytest.param(Plain, Recurrent, sequences(), id="lstm"),
        pytest.param(Manual, mlp, digits(n=512), id="manual"),
    ],
)
def test_pair(program, net, data):
    def run(scheduled):
        suite = DebugSuite(checks=[NoScheduler(updates=30)], sinks=[])
        return fit(lambda: program(net, scheduled), data, suite=suite)

    without, scheduled = run(False), run(True)
    (finding,) = [f for f in without.findings if f.name == NAME]
    assert finding.where == "Adam"
    assert alarms(without) == []
    assert NAME not in {f.name for f in scheduled.findings}
    assert alarms(scheduled) == []
