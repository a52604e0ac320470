"""Trials of learning rates on problems whose answer is known."""

import math
import time
from collections import defaultdict

import pytest
import pytorch_lightning as pl
import torch
from torch import nn, optim

from lightning_debug.experiments.rates import MOST_WEIGHTS, RateTrials
from lightning_debug.experiments.replica import NotApplicableError
from lightning_debug.observation import Clipping, LossCall, LossCalls, Targets, WholeLoss
from tests.build_updates import losses, ratios, updates

STEPS = 20


class Bowl(pl.LightningModule):
    """The loss is the mean of the batch times the square of the weight, so the slope is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.steps = 0

    def training_step(self, batch):
        self.steps += 1
        return (batch.mean() * self.weight**2 / 2.0).sum()


def trials(model, optimizers, *, seen=(0.5, 0.5), size=1e-3, lr=1e-3, batch=1.0, **settings):
    """Return trials that have seen a run with this first and last loss, at this rate."""
    made = RateTrials(model, optimizers, **settings)  # waits for no update unless told
    made.start()
    made.hear(losses(*seen))
    made.hear(ratios(size, lr=lr))
    made.keep(torch.full((4,), batch), 0)
    return made


def run(made):
    return made.run(7, 1, end=time.monotonic() + 60)


def test_every_arm_trains_from_the_initial_weights():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = trials(model, [optimizer])
    with torch.no_grad():
        model.weight.fill_(100.0)  # where the run has led
    obs = run(made)
    assert (obs.step, obs.epoch, obs.optimizer, obs.lr) == (7, 1, "SGD", 1e-3)
    assert obs.start == 0.5
    ends = {arm.factor: arm.end for arm in obs.arms}
    assert set(ends) >= {0.1, 1.0, 10.0, 100.0, 1000.0}
    for factor, end in ends.items():
        assert end == pytest.approx(0.5 * (1.0 - 1e-3 * factor) ** (2 * STEPS), rel=1e-4, abs=1e-9)
    own = next(arm for arm in obs.arms if arm.factor == 1.0)
    expected = [0.5 * (1.0 - 1e-3) ** (2 * n) for n in range(STEPS)]
    assert own.losses == pytest.approx(expected, rel=1e-4)


def test_the_model_and_its_optimizer_stay_as_they_are():
    model = Bowl()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    model.weight.grad = torch.ones(1, 1)
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    values, drawn = model.weight.detach().clone(), torch.get_rng_state()
    assert run(trials(model, [optimizer])).arms
    assert torch.equal(model.weight, values)
    assert torch.equal(model.weight.grad, torch.ones(1, 1))
    assert all(torch.equal(before[k], v) for k, v in optimizer.state[model.weight].items())
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.steps == 0


def test_clips_as_the_trainer_does():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    made = trials(model, [optimizer], lr=1.0, size=0.5, batch=10.0, clip=(0.01, "norm"))
    own = next(arm for arm in run(made).arms if arm.factor == 1.0)
    assert own.end == pytest.approx(5.0 * (1.0 - STEPS * 0.01) ** 2, rel=1e-4)


def test_clips_as_the_user_does():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    made = trials(model, [optimizer], lr=1.0, size=0.5, batch=10.0)
    for before in (7.0, 0.004, 3.0):
        after = min(before, 0.01)
        made.hear(Clipping(optimizer="SGD", before=before, after=after))
    own = next(arm for arm in run(made).arms if arm.factor == 1.0)
    assert own.end == pytest.approx(5.0 * (1.0 - STEPS * 0.01) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([{"before": 7.0, "after": 1.0, "cosine": 0.6}], id="value by value"),
        pytest.param([{"before": 7.0, "after": 1.0}, {"before": 9.0, "after": 3.0}], id="by parts"),
    ],
)
def test_does_not_guess_how_gradients_are_changed(seen):
    model = Bowl()
    made = trials(model, [optim.SGD(model.parameters(), lr=1.0)], lr=1.0, size=0.5)
    for numbers in seen:
        made.hear(Clipping(optimizer="SGD", **numbers))
    with pytest.raises(NotApplicableError, match="between backward and step"):
        run(made)


def test_a_trial_that_blows_up_ends_at_infinity():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e30)
    obs = run(trials(model, [optimizer], lr=1e30, size=100.0, seen=(0.5, math.nan)))
    ends = {arm.factor: arm.end for arm in obs.arms}
    assert ends[1.0] == math.inf
    assert set(ends) == {1.0, *(0.1**n for n in range(1, 4))}


def test_a_closure_is_run_as_often_as_the_optimizer_asks():
    model = Bowl()
    optimizer = optim.LBFGS(model.parameters(), lr=1e-3, max_iter=3)
    own = next(arm for arm in run(trials(model, [optimizer])).arms if arm.factor == 1.0)
    assert own.end < 0.5 * (1.0 - 1e-3) ** (2 * STEPS)


@pytest.mark.parametrize("now", [1e-5, 7e-3])
def test_takes_the_highest_rate_wherever_a_schedule_is_by_now(now):
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=now)
    made = trials(model, [optimizer], lr=1e-2)
    made.hear(ratios(1e-3, lr=1e-5))
    obs = run(made)
    own = next(arm for arm in obs.arms if arm.factor == 1.0)
    assert obs.lr == 1e-2
    assert own.end == pytest.approx(0.5 * (1.0 - 1e-2) ** (2 * STEPS), rel=1e-4)


def test_an_arm_without_weight_decay():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=3.0)
    obs = run(trials(model, [optimizer], lr=0.1, size=1e-2))
    own = next(arm for arm in obs.arms if arm.factor == 1.0)
    assert own.end == pytest.approx(0.5 * 0.6 ** (2 * STEPS), rel=1e-3)
    assert obs.undecayed.end == pytest.approx(0.5 * 0.9 ** (2 * STEPS), rel=1e-3)
    assert optimizer.param_groups[0]["weight_decay"] == 3.0


def test_a_rate_that_the_number_format_cannot_hold_ends_the_ladder():
    model = Bowl().half()
    optimizer = optim.SGD(model.parameters(), lr=30.0)
    made = trials(model, [optimizer], lr=30.0, size=1e-2)
    made.keep(torch.ones(4, dtype=torch.float16), 0)
    made._batches.popleft()
    factors = [arm.factor for arm in run(made).arms]
    assert max(factors) <= 1000.0
    assert 1.0 in factors


def called(level, value=2.0, *more):
    call = LossCall(
        function="mse_loss", value=value, references={"mean": level}, target=Targets(shape=(10**6,))
    )
    return LossCalls(calls=(call, *more), whole=WholeLoss(value=value))


def at_a_constant(*calls, last=2.0, size=0.5):
    """A trial of a run that has come down from 9 to 2, with large steps."""
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = trials(model, [optimizer], seen=(9.0, last), size=size)
    made.hear(losses(*[last] * 5))
    for call in calls:
        made.hear(call)
    made.keep(torch.ones(4), 0)
    return run(made)


def test_large_steps_that_lead_to_a_constant_prediction_are_tried():
    obs = at_a_constant(*map(called, (2.0, 1.9, 2.2, 2.1)))
    assert obs.chance == pytest.approx(2.2, rel=1e-3)
    assert obs.level == obs.start == 0.5  # the trial starts below
    assert at_a_constant(*map(called, (2.0, 1.9, 2.2, 2.1)), size=1e-3) is None
    assert at_a_constant(*map(called, (2.0, 1.9, 2.2, 2.1)), last=1.5) is None


def test_what_a_constant_gives_must_be_known_of_the_whole_loss():
    two = LossCall(function="l1_loss", value=0.1)
    assert at_a_constant(*[called(2.0)] * 3) is None
    assert at_a_constant(*[called(2.0, 2.0, two)] * 4) is None
    part = [LossCalls(calls=called(2.0).calls, whole=WholeLoss(value=3.0))] * 4
    assert at_a_constant(*part) is None


def test_looks_again_where_it_has_got_on_or_the_rate_still_rises():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = trials(model, [optimizer], seen=(1.0, 0.5), waits=[50, 600])
    assert [made.due(n) for n in (0, 49, 50, 599)] == [False, False, True, True]
    assert run(made) is None
    assert [made.due(n) for n in (50, 599, 600)] == [False, False, True]
    made.hear(losses(*[2.0] * 5))
    made.keep(torch.ones(4), 300)  # too early to be of use
    made.keep(torch.ones(4), 598)
    assert run(made).arms
    assert not made.due(10_000)


@pytest.mark.parametrize("seen", [(1.0, 0.5), (-1.0, -1.5), (0.0, -0.1)])
def test_a_run_that_gets_on_needs_no_trial(seen):
    model = Bowl()
    made = trials(model, [optim.SGD(model.parameters(), lr=1e-3)], seen=seen)
    assert run(made) is None


def several(model):
    return [optim.SGD([model.weight], lr=1e-3), optim.SGD([model.weight], lr=1e-3)]


class Wrapped(optim.SGD):
    def __deepcopy__(self, memo):
        raise RuntimeError("holds a lock")


@pytest.mark.parametrize(
    ("optimizers", "words"),
    [
        (several, "several optimizers"),
        (lambda model: [Wrapped(model.parameters(), lr=1e-3)], "cannot be copied: holds a lock"),
        (lambda model: [optim.SGD([*model.parameters(), torch.ones(1)])], "not the model's"),
    ],
)
def test_says_why_there_is_no_trial(optimizers, words):
    model = Bowl()
    with pytest.raises(NotApplicableError, match=words):
        run(trials(model, optimizers(model)))


def test_says_that_the_rate_is_zero_or_still_rises():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    with pytest.raises(NotApplicableError, match="learning rate is 0"):
        run(trials(model, [optimizer], lr=0.0))
    made = trials(model, [optimizer], lr=1e-5)
    made.hear(ratios(1e-3, lr=1e-4))
    with pytest.raises(NotApplicableError, match="still rising"):
        run(made)


def test_a_rate_that_has_stood_still_for_epochs_does_not_rise_any_more():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = trials(model, [optimizer], lr=1e-5)
    for epoch in range(3):
        step = {"net.0.weight": {"update_rms": 1e-3, "lr": 1e-4, "base_lr": 1e-2}}
        made.hear(updates(step, epoch=epoch))
    assert run(made).base == 1e-2


def test_keeps_nothing_of_a_large_model_and_nothing_once_it_is_told_to_forget(monkeypatch):
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    made = trials(model, [optimizer])
    made.forget()
    assert not made.due(10_000)
    assert MOST_WEIGHTS > 1
    monkeypatch.setattr("lightning_debug.experiments.rates.MOST_WEIGHTS", 0)
    with pytest.raises(NotApplicableError, match="too many to keep"):
        run(trials(model, [optimizer]))


def test_gives_up_where_it_would_take_too_long():
    model = Bowl()
    made = trials(model, [optim.SGD(model.parameters(), lr=1e-3)])
    with pytest.raises(NotApplicableError, match="time"):
        made.run(7, 1, end=time.monotonic())


class Several(Bowl):
    """Calls backward twice in a step."""

    automatic_optimization = False

    def training_step(self, batch):
        for _ in range(2):
            self.manual_backward(super().training_step(batch))


def test_a_step_with_several_losses_is_not_tried():
    model = Several()
    model._trainer = None
    made = trials(model, [optim.SGD(model.parameters(), lr=1e-3)])
    with pytest.raises(NotApplicableError, match="several losses"):
        run(made)


def test_the_new_optimizer_has_no_state():
    model = Bowl()
    optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.weight.grad = torch.full((1, 1), 1e6)
    optimizer.step()
    optimizer.state[model.weight]["momentum_buffer"] *= 1e6
    with torch.no_grad():
        model.weight.fill_(1.0)
    own = next(arm for arm in run(trials(model, [optimizer])).arms if arm.factor == 1.0)
    assert own.end < 0.5
    assert isinstance(optimizer.state, defaultdict)
