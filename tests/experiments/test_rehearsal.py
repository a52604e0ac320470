"""A scheduler is tried out on a copy, and nothing of the run notices."""

import functools
import math
import random

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import SWALR

from lightning_debug.experiments.rehearsal import rehearse

CALLS = 30


def optimizer(groups=1):
    parameters = [{"params": [nn.Parameter(torch.zeros(2))]} for _ in range(groups)]
    return optim.AdamW(parameters, lr=1e-3)


class Own(lr.LRScheduler):
    """A warm-up that keeps a number of its own."""

    def __init__(self, optimizer, warm):
        self.warm, self.seen = warm, 0
        super().__init__(optimizer)

    def get_lr(self):
        self.seen += 1
        return [base * min(1.0, (self.last_epoch + 1) / self.warm) for base in self.base_lrs]


class Factor:
    """A factor that is an object and remembers."""

    def __init__(self):
        self.asked = []

    def __call__(self, step):
        self.asked.append(step)
        return 0.9**step


class Model(nn.Module):
    """Its methods are factors."""

    current_epoch = 0

    def decay(self, step):
        return 1.0 / math.log(step + 3)

    def counted(self, step):
        self.last = step
        return 1.0

    def follows(self, step):
        return 0.9**self.current_epoch


def scaled(step, total):
    return max(0.0, 1.0 - step / total)


def sequence(o):
    return lr.SequentialLR(
        o, [lr.LinearLR(o, 0.1, total_iters=5), lr.CosineAnnealingLR(o, 20)], [5]
    )


MODEL = Model()
SEEN = []
SCHEDULERS = [
    pytest.param(lambda o: lr.CosineAnnealingLR(o, 10), id="cosine"),
    pytest.param(lambda o: lr.OneCycleLR(o, 1e-2, total_steps=50), id="one cycle"),
    pytest.param(lambda o: lr.CyclicLR(o, 1e-4, 1e-2, 5, cycle_momentum=False), id="cyclic"),
    pytest.param(lambda o: lr.CosineAnnealingWarmRestarts(o, 7, 2), id="warm restarts"),
    pytest.param(sequence, id="sequence"),
    pytest.param(
        lambda o: lr.ChainedScheduler([lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)]), id="chain"
    ),
    pytest.param(lambda o: lr.MultiStepLR(o, [4, 9]), id="milestones"),
    pytest.param(lambda o: lr.PolynomialLR(o, 12), id="polynomial"),
    pytest.param(lambda o: lr.MultiplicativeLR(o, lambda _: 0.9), id="multiplicative"),
    pytest.param(lambda o: lr.LambdaLR(o, functools.partial(scaled, total=9)), id="partial"),
    pytest.param(lambda o: lr.LambdaLR(o, MODEL.decay), id="method"),
    pytest.param(lambda o: lr.LambdaLR(o, Factor()), id="object"),
    pytest.param(lambda o: SWALR(o, 1e-2), id="averaging"),
    pytest.param(lambda o: Own(o, 6), id="own class"),
]


def state(scheduler):
    """Return all that a scheduler and its optimizer hold, as text."""
    groups = [
        {k: v for k, v in g.items() if k != "params"} for g in scheduler.optimizer.param_groups
    ]
    parts = getattr(scheduler, "_schedulers", [])
    held = [{k: v for k, v in vars(s).items() if k != "optimizer"} for s in (scheduler, *parts)]
    asked = [f.asked for f in getattr(scheduler, "lr_lambdas", []) if isinstance(f, Factor)]
    return repr((groups, held, asked))


@pytest.mark.parametrize("build", SCHEDULERS)
def test_does_what_the_scheduler_will_do(build):
    scheduler = build(optimizer())
    before, generator = state(scheduler), (random.getstate(), torch.get_rng_state().tolist())
    rehearsal = rehearse(scheduler, CALLS)
    assert state(scheduler) == before
    assert (random.getstate(), torch.get_rng_state().tolist()) == generator
    scheduler.optimizer.step()
    rates = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(CALLS):
        scheduler.step()
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
    assert rehearsal.rates == pytest.approx(rates)
    assert not rehearsal.ends


def test_says_where_a_scheduler_refuses():
    rehearsal = rehearse(lr.OneCycleLR(optimizer(), 1e-2, total_steps=20), CALLS)
    assert rehearsal.ends
    assert len(rehearsal.rates) == 21


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda o: lr.ReduceLROnPlateau(o), id="waits for a metric"),
        pytest.param(lambda o: lr.LambdaLR(o, MODEL.counted), id="writes to the model"),
        pytest.param(lambda o: lr.LambdaLR(o, MODEL.follows), id="reads the epoch"),
        pytest.param(lambda o: lr.LambdaLR(o, lambda t: SEEN.append(t) or 1.0), id="keeps a list"),
        pytest.param(lambda o: lr.LambdaLR(o, lambda t: random.random()), id="draws"),
        pytest.param(lambda o: object(), id="of another kind"),
    ],
)
def test_is_not_tried_out(build):
    scheduler = build(optimizer())
    kept = len(SEEN)
    assert rehearse(scheduler, CALLS).rates == ()
    assert len(SEEN) == kept
    assert MODEL.current_epoch == 0


def test_several_groups_count_as_the_one_nearest_to_its_peak():
    scheduler = lr.LambdaLR(optimizer(2), [lambda t: max(0.0, 1.0 - t / 5), lambda _: 1.0])
    assert set(rehearse(scheduler, CALLS).rates) == {1e-3}


def test_bounded():
    scheduler = lr.CosineAnnealingLR(optimizer(), 10**6)
    assert len(rehearse(scheduler, 10**7).rates) <= 20_001
