"""Loss terms that train nothing, and the programs in which they do."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.runs import Program, alarms, digits, fit, names, regression


class Sparse(Program):
    """A classifier with a penalty on its hidden units."""

    def __init__(self, cut):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
        self.head = nn.Linear(64, 10)
        self.cut = cut

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x)
        penalty = hidden.abs().mean()
        if self.cut == "item":
            penalty = penalty.item()
        elif self.cut == "tensor":
            penalty = torch.tensor(penalty.item())
        elif self.cut == "detach":
            penalty = hidden.detach().abs().mean()
        elif self.cut == "float":
            penalty = float(penalty.detach()) ** 0.5
        return F.cross_entropy(self.head(hidden), y) + 0.1 * penalty


class Overlap(Program):
    """A convolutional segmenter of bright pixels, with cross entropy and a Dice loss."""

    def __init__(self, hard):
        super().__init__(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1))
        )
        self.hard = hard

    def training_step(self, batch, batch_idx):
        x, _ = batch
        truth = (x[:, 0] > 0.5).long()
        logits = self.net(x)
        found = logits.argmax(1).float() if self.hard else logits.softmax(1)[:, 1]
        overlap = 2 * (found * truth).sum() / (found.sum() + truth.sum() + 1)
        loss = F.cross_entropy(logits, truth)
        loss += 1 - overlap
        return loss


class Distilled(Program):
    """A student that follows a trained teacher; in the bug it follows itself, or answers for it."""

    def __init__(self, itself=False, judged="student"):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)))
        self.teacher = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.teacher.requires_grad_(False)
        self.itself, self.judged = itself, judged

    def training_step(self, batch, batch_idx):
        x, y = batch
        student, teacher = self.net(x), self.teacher(x)
        imitation = F.kl_div(
            (teacher if self.itself else student).log_softmax(1) + 1e-3,
            teacher.softmax(1),
            reduction="batchmean",
        )
        judged = teacher if self.judged == "teacher" else student
        return torch.stack([F.cross_entropy(judged, y), imitation]).sum()

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-3)


class Smooth(Program):
    """A regression whose outputs should change little with the input."""

    def __init__(self, watched):
        super().__init__(nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)))
        self.watched = watched

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = ((self.net(x) - y) ** 2).mean()
        with torch.set_grad_enabled(self.watched):
            change = (self.net(x + 0.01) - self.net(x)).square().mean()
        return loss + change * 10.0


class Steep(Program):
    """A classifier whose scores should change little with the pixels: a penalty on the slope."""

    def __init__(self, graph, points):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 10)))
        self.graph = graph
        self.points = points

    def training_step(self, batch, batch_idx):
        x, y = batch
        near = x.requires_grad_() if self.points == "batch" else self.drawn(x)
        scores = self.net(near).logsumexp(1).sum()
        (slope,) = torch.autograd.grad(scores, near, create_graph=self.graph)
        change = (slope * (near - near.mean())).sum(1)  # along a change of contrast
        return F.cross_entropy(self.net(x), y) + change.square().mean()

    def drawn(self, x):
        return (x + 0.1 * torch.randn_like(x)).requires_grad_()


@pytest.mark.parametrize(
    ("bug", "fix", "data"),
    [
        pytest.param(
            lambda: Steep(False, "batch"), lambda: Steep(True, "batch"), digits, id="inputs"
        ),
        pytest.param(
            lambda: Steep(False, "drawn"), lambda: Steep(True, "drawn"), digits, id="drawn points"
        ),
        pytest.param(lambda: Sparse("item"), lambda: Sparse(""), digits, id="item"),
        pytest.param(lambda: Sparse("tensor"), lambda: Sparse(""), digits, id="tensor of an item"),
        pytest.param(lambda: Sparse("float"), lambda: Sparse(""), digits, id="float"),
        pytest.param(lambda: Sparse("detach"), lambda: Sparse(""), digits, id="detach"),
        pytest.param(
            lambda: Overlap(hard=True),
            lambda: Overlap(hard=False),
            lambda: digits(flat=False, n=512),
            id="argmax",
        ),
        pytest.param(
            lambda: Distilled(itself=True), lambda: Distilled(itself=False), digits, id="frozen"
        ),
        pytest.param(
            lambda: Distilled(judged="teacher"), Distilled, digits, id="the teacher's own loss"
        ),
        pytest.param(
            lambda: Smooth(watched=False), lambda: Smooth(watched=True), regression, id="no_grad"
        ),
    ],
)
def test_constant_loss_terms(bug, fix, data):
    found, fixed = fit(bug, data()), fit(fix, data())
    assert "constant-loss-terms" in names(found)
    assert alarms(fixed) == []


def test_names_the_line_and_the_cut():
    found = fit(lambda: Overlap(hard=True), digits(flat=False, n=512))
    finding = next(f for f in found.findings if f.name == "constant-loss-terms")
    assert "test_constant_loss_terms.py:" in finding.message
    assert "argmax has no gradient" in finding.message


class Shaped(Program):
    """Cuts the hidden layer long before it makes a penalty of it."""

    def __init__(self, cut):
        super().__init__(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
        self.head = nn.Linear(64, 10)
        self.cut = cut

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net(x)
        kept = self.cut(hidden)  # cut here
        penalty = kept.float().abs().mean()
        return F.cross_entropy(self.head(hidden), y) + 0.1 * penalty


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda hidden: hidden.data, id="data"),
        pytest.param(lambda hidden: hidden.detach(), id="detach"),
        pytest.param(lambda hidden: hidden.argsort(), id="argsort"),
    ],
)
def test_names_the_line_of_the_cut(cut):
    found = fit(lambda: Shaped(cut), digits())
    finding = next(f for f in found.findings if f.name == "constant-loss-terms")
    assert "test_constant_loss_terms.py:" in finding.message.rpartition(" at ")[2]


def test_names_the_line_of_a_read():
    found = fit(lambda: Sparse("item"), digits())
    finding = next(f for f in found.findings if f.name == "constant-loss-terms")
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.strip() == "penalty = penalty.item()")
    assert f"at test_constant_loss_terms.py:{line}" in finding.message
