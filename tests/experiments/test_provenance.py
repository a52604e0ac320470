"""The operation that makes the first NaN, by name, line and operand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.cures import cure, describe
from lightning_debug.observation import NonFiniteBirth
from tests.runs import Program, digits, fit

TERMS = {
    "log": lambda out, y: out.relu().log().mean(),
    "exp": lambda out, y: ((1e4 * out).exp() / (1e4 * out).exp().sum(1, keepdim=True)).mean(),
    "softmax": lambda out, y: out.masked_fill(out[:, :1] < 9e9, -torch.inf).softmax(1).sum(),
    "div": lambda out, y: out.mean() / (y > 20).sum(),
    "mean": lambda out, y: out[y > 20].mean(),
    "sqrt": lambda out, y: (out - out).sum(1).sqrt().mean(),
    "acos": lambda out, y: 0.1 * (out * 0 + 1).acos().mean(),
}


class Rare(Program):
    """A term of the loss breaks at one step."""

    def __init__(self, term, at):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
        self.term, self.at = term, at

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        loss = F.cross_entropy(out, y)
        return loss + TERMS[self.term](out, y) if self.global_step == self.at else loss


@pytest.mark.parametrize("at", [0, 29], ids=["at a look", "between two looks"])
@pytest.mark.parametrize("function", TERMS)
def test_the_operation_is_named(function, at):
    suite = fit(lambda: Rare(function, at), digits(), epochs=1)
    name = "non-finite-gradient" if function in ("sqrt", "acos") else "non-finite-loss"
    root = suite.findings[0]
    assert root.name == name
    assert f"{function} at test_provenance.py" in root.message
    assert all(f.caused_by == name for f in suite.findings[1:])


def test_a_mask_of_minus_infinity_is_not_to_blame():
    class Masked(Program):
        def training_step(self, batch, batch_idx):
            x, y = batch
            scores = self(x) + torch.full((1, 10), -torch.inf).triu(9).nan_to_num(
                0.0, neginf=-torch.inf
            )
            later = scores.masked_fill(x[:, :1] > 9, -torch.inf).log_softmax(1)
            return F.nll_loss(later, y.clamp(max=8)) / (0.0 * x.sum())

    suite = fit(lambda: Masked(nn.Linear(64, 10)), digits(), epochs=1)
    assert "It comes from div at" in suite.findings[0].message


def test_cures():
    log = NonFiniteBirth(function="log", line="model.py:4", low=0.0, high=2.0)
    assert describe(log) == " It comes from log at model.py:4, on numbers from 0 to 2."
    assert "clamp_min(1e-8).log()" in cure(log)
    root = NonFiniteBirth(function="sqrt", place="net.norm", phase="backward")
    assert describe(root) == " The derivative of sqrt in net.norm is not."
    assert "torch.where" in cure(root)
    assert "range of their type" in cure(NonFiniteBirth(function="mul"))
