"""Weight decay in an adaptive step that takes over, and the same taken off the weights."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.faults.test_weight_decay_on_norm import Encoder
from tests.runs import Program, alarms, digits, fit, sequences


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Manual(Program):
    """The same with a training step that runs the optimizer itself."""

    def __init__(self, optimizer):
        super().__init__(mlp(), optimizer=optimizer)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


@pytest.mark.parametrize(
    ("program", "rule", "decay", "data"),
    [
        pytest.param(
            lambda rule: Program(cnn(), optimizer=rule), torch.optim.Adam, 0.1,
            lambda: digits(flat=False), id="CNN",
        ),
        pytest.param(
            lambda rule: Program(Encoder(), optimizer=rule), torch.optim.RMSprop, 0.2,
            sequences, id="transformer with RMSprop",
        ),
        pytest.param(
            Manual, torch.optim.NAdam, 0.3, digits, id="manual optimization with NAdam"
        ),
    ],
)  # fmt: skip
def test_adam_with_l2(program, rule, decay, data):
    found, fixed = (
        fit(lambda one=one: program(partial(one, lr=1e-3, weight_decay=decay)), data())
        for one in (rule, torch.optim.AdamW)
    )
    (finding,) = [f for f in found.findings if f.name == "adam-with-l2"]
    assert (finding.severity, finding.where) == ("warning", rule.__name__)
    assert not finding.caused_by
    assert [f.name for f in found.findings if f.severity > "info" and not f.caused_by] == [
        "adam-with-l2"
    ]
    assert alarms(fixed) == []
    assert "adam-with-l2" not in {f.name for f in fixed.findings}


def by_hand(out, y):
    return -(out.log_softmax(1) * nn.functional.one_hot(y, 10)).sum(1).mean()


def test_a_loss_without_a_chance_level():
    rule = partial(torch.optim.Adam, lr=1e-3, weight_decay=0.5)
    found = fit(partial(Program, mlp(), by_hand, rule), digits())
    (finding,) = [f for f in found.findings if f.name == "adam-with-l2"]
    assert finding.severity == "warning"
    assert "has not fallen" in finding.message


def test_little_decay_is_worth_knowing_only():
    program = partial(Program, mlp(), optimizer=partial(torch.optim.Adam, weight_decay=1e-4))
    found = fit(program, digits(n=512), epochs=1)
    (finding,) = [f for f in found.findings if f.name == "adam-with-l2"]
    assert finding.severity == "info"
    assert alarms(found) == []
