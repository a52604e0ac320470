import functools

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn, optim

from lightning_debug import DebugSuite
from lightning_debug.check import Check
from tests.runs import Program, digits, fit

SEEN = []


class Spy(Check):
    """Keeps what it is shown."""

    fix = "Nothing."

    def on_clipping(self, obs):
        SEEN.append(obs)
        return ()


class Manual(Program):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), 0.1)
        optimizer.step()
        return loss


def mlp():
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def looks(kind=Program, optimizer=functools.partial(optim.SGD, lr=0.1), scale=0.0, **settings):
    """Train for twelve updates and return what was seen, without the rest after the last look."""
    SEEN.clear()
    if scale:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        settings["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    suite = DebugSuite(checks=[Spy()], sinks=[], preflight=False)
    fit(lambda: kind(mlp(), optimizer=optimizer), digits(n=384), suite=suite, epochs=1, **settings)
    return [obs for obs in SEEN if obs.after == obs.after]


def test_nothing_is_clipped():
    seen = looks()
    assert len(seen) >= 10
    for obs in seen:
        assert obs.factor == pytest.approx(1.0)
        assert (obs.scale, obs.scaled_factor) == (1.0, 1.0)
        assert obs.cosine == pytest.approx(1.0, abs=1e-5)
        assert obs.pull == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1024.0], ids=["float32", "scaled"])
def test_the_trainer_clips(scale):
    for obs in looks(gradient_clip_val=0.1, scale=scale):
        assert obs.after == pytest.approx(0.1, rel=1e-2)
        assert obs.before > 0.2
        assert obs.scale == (scale or 1.0)
        assert obs.scaled_factor == pytest.approx(1.0)
        assert obs.line == ""


def test_clipped_by_hand():
    for obs in looks(Manual):
        assert obs.after == pytest.approx(0.1, rel=1e-2)
        assert obs.before > 0.2
        assert obs.line.startswith("test_clipping.py:")


def test_clipped_by_hand_while_scaled():
    for obs in looks(Manual, scale=1024.0):
        assert obs.after == pytest.approx(0.1 / 1024.0, rel=1e-2)
        assert obs.before > 0.2
        assert obs.scale == 1024.0
        assert obs.scaled_factor < 1e-3


def test_by_value():
    for obs in looks(gradient_clip_val=1e-5, gradient_clip_algorithm="value"):
        assert obs.pinned > 0.9
        assert 0.3 < obs.cosine < 0.95


def test_a_closure_that_runs_again_is_left_out():
    assert looks(optimizer=functools.partial(optim.LBFGS, lr=0.1, max_iter=3)) == []


def test_each_step_is_noticed():
    looks()
    steps = [step for obs in SEEN for step, _ in obs.passed]
    assert steps == list(range(12))
