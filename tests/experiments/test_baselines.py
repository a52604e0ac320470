"""Simple models and shuffled labels on problems whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_debug.containment import Containment
from lightning_debug.experiments import probes
from lightning_debug.experiments.baselines import Progress, _require_whole, _Split, baselines
from lightning_debug.experiments.replica import NotApplicableError, Replica
from lightning_debug.experiments.shuffled import shuffled
from lightning_debug.experiments.task import Predicted, Rows, Task
from lightning_debug.observation import Baselines
from tests.build_updates import losses
from tests.runs import Program, digits, regression


def progress(updates=200):
    made = Progress()
    made.hear(losses(*([1.0] * updates)))
    return made


def compare(model, batches, **settings):
    replica = Replica(model, [model.configure_optimizers()], dtype=None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with replica.working():
        obs = baselines(replica, batches, progress(**settings), 5.0, step=200, epoch=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    return obs


def order(model, batches):
    replica = Replica(model, [model.configure_optimizers()], dtype=None)
    with replica.working():
        return shuffled(replica, batches, step=1, epoch=0)


def scores(obs):
    return {simple.name: simple.score for simple in obs.simple}


def test_classes():
    obs = compare(Program(nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 10))), list(digits()))
    assert (obs.metric, obs.layout, obs.function) == ("accuracy", "sample", "cross_entropy")
    found = scores(obs)
    assert found["constant"] < 0.2
    assert found["linear"] > 0.8
    assert obs.model.score < 0.3
    assert obs.further.score > 0.8
    assert obs.summary.startswith("accuracy 0.")


def test_values_and_a_linear_model():
    obs = compare(Program(nn.Linear(8, 1), F.mse_loss), list(regression(n=1024)))
    assert obs.metric == "explained variance"
    assert scores(obs).keys() == {"constant", "linear"}
    assert scores(obs)["constant"] == 0.0


class Step(Program):
    """Two losses, a target that it makes, or one that is the input."""

    def __init__(self, kind):
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64)))
        self.kind = kind

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        if self.kind == "several":
            return F.cross_entropy(out[:, :10], y) + F.mse_loss(out, x)
        if self.kind == "made":
            return F.mse_loss(out, (3.0 * x).sin())
        if self.kind == "drawn":
            return F.mse_loss(out, torch.randn_like(x))
        if self.kind == "weighted":
            losses = F.cross_entropy(out[:, :10], y, reduction="none")
            return (losses * (y + 1)).mean()
        return F.mse_loss(out, x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("several", "several predictions are compared"),
        ("made", "made in the step"),
        ("drawn", "draws random numbers"),
        ("weighted", "more than a comparison"),
        ("itself", "given the target"),
    ],
)
def test_not_applicable(kind, reason):
    with pytest.raises(NotApplicableError, match=reason):
        compare(Step(kind), list(digits()))


def test_a_short_run():
    with pytest.raises(NotApplicableError, match="too short"):
        compare(Program(nn.Linear(64, 10)), list(digits()), updates=10)


def test_labels_in_their_order_and_in_another():
    torch.manual_seed(0)
    batches = list(digits())
    model = Program(nn.Linear(64, 10))
    real = order(model, batches)
    assert real.real > 10.0
    assert real.weak > 2.0
    generator = torch.Generator().manual_seed(0)
    y = torch.cat([y for _, y in batches])
    mixed = y[torch.randperm(len(y), generator=generator)].split(32)
    other = order(model, [(x, m) for (x, _), m in zip(batches, mixed, strict=True)])
    assert other.real < 2.5
    assert other.weak > 2.5


def test_ids_tell_nothing_of_each_other():
    model = Program(nn.Sequential(nn.Embedding(50, 10), nn.Flatten(), nn.Linear(30, 2)))
    batches = [(torch.randint(0, 50, (32, 3)), torch.randint(0, 2, (32,))) for _ in range(20)]
    with pytest.raises(NotApplicableError, match="ids"):
        order(model, batches)


def test_a_run_of_the_model_that_is_cut_short_is_no_answer():
    def rows(first):
        numbers = np.arange(first, first + 4)
        return Rows(numbers[:, None] / 1.0, numbers / 1.0, numbers, np.arange(4), size=4)

    whole = {i: Predicted(np.zeros((4, 1)), 0.0, ()) for i in range(2)}
    split = _Split([rows(0), rows(4)], whole)
    assert split.values(whole).shape == (4, 1)
    with pytest.raises(NotApplicableError, match="no time"):
        split.values({0: whole[0]})


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_batch_in_which_no_target_counts_says_nothing_of_the_loss(factor):
    task = Task("labels", "binary_cross_entropy", "training_step", 2)
    values = np.zeros((4, 1))
    made = [Predicted(values, factor * plain, (plain,)) for plain in (0.1, 0.4, 0.2, 0.9)]
    made.append(Predicted(values, 0.0, (math.nan,)))
    _require_whole(made, task)
    with pytest.raises(NotApplicableError, match="more than a comparison"):
        _require_whole([replace(m, loss=m.loss**2) for m in made], task)


def test_the_longer_the_run_the_longer_a_copy_is_trained_on(monkeypatch):
    seen = []

    def note(replica, batches, progress, seconds, *, step, epoch):
        seen.append(seconds)
        raise NotApplicableError("only asked for its time")

    monkeypatch.setattr(probes, "baselines", note)
    for hours in (0.0, 0.25, 5.0):
        model = Program(nn.Linear(8, 1), F.mse_loss)
        made = probes.Probes(model, [model.configure_optimizers()])
        made._begun -= 3600.0 * hours
        made.looks_at(next(iter(regression())), wants=lambda kind: kind is Baselines)
        wants = {"wants": lambda kind: kind is Baselines, "contain": Containment()}
        [obs] = made.end(200, 3, **wants)
        assert obs.skipped == "only asked for its time"
    assert seen == pytest.approx([6.0, 18.0, 60.0], rel=0.01)
