import math

import pytest

from lightning_debug.checks import BatchNormStaleStats
from lightning_debug.observation import Losses, ModeGap, Plan
from tests.build_norms import judged, norms

LONG = Plan(updates=100, batches=50)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        pytest.param(
            norms(momentum=0.99),
            "net.1 has momentum=0.99: 99% of its running statistics come from the last batch"
            " alone.",
            id="the last batch",
        ),
        pytest.param(
            norms(momentum=0.0),
            "net.1 has momentum=0, so its running statistics never move.",
            id="never",
        ),
        pytest.param(
            norms(momentum=0.001, gap=0.1, scale=5.0),
            "net.1 has momentum=0.001: after 100 batches its running statistics still hold 90% of"
            " the zeros and ones they started with.",
            id="too slow",
        ),
        pytest.param(
            norms(frozen=True, drift=0.8, stretch=1.2),
            "net.1 is frozen, but in train mode: its running mean has moved by 0.8 standard"
            " deviations since training started, its variance by a factor of 1.2.",
            id="frozen",
        ),
        pytest.param(
            norms(stage="validation", gap=2.0, scale=1.1),
            "net.1 is validated by running statistics of 0 and 1, as it was made; its input is 2"
            " standard deviations away (variances differ by a factor of 1.1).",
            id="never updated",
        ),
    ],
)
def test_says_what_is_stale(obs, message):
    (finding,) = judged(BatchNormStaleStats(), obs, plan=LONG)
    assert finding.where == "net.1"
    assert finding.message == message


@pytest.mark.parametrize(
    ("obs", "plan"),
    [
        pytest.param(norms(), LONG, id="default"),
        pytest.param(norms(momentum=1.0), Plan(updates=9, batches=1), id="all data in a batch"),
        pytest.param(norms(momentum=1.0, tracked=False), LONG, id="no statistics"),
        pytest.param(norms(momentum=0.001, initial=False, gap=9.0), LONG, id="pretrained"),
        pytest.param(norms(momentum=0.001, gap=0.1, scale=1.2), LONG, id="near 0 and 1 anyway"),
        pytest.param(norms(momentum=0.001, gap=9.0), Plan(updates=10_000), id="a long run"),
        pytest.param(norms(momentum=0.001, gap=9.0), Plan(), id="nobody knows how long"),
        pytest.param(norms(frozen=True, drift=0.05, stretch=1.1), LONG, id="frozen, noise"),
        pytest.param(norms(frozen=True, drift=2.0, halfway=True), LONG, id="without weights"),
        pytest.param(norms(frozen=True, drift=2.0, moved=True), LONG, id="an average of weights"),
        pytest.param(norms(stage="validation", gap=2.0, step=3), LONG, id="first steps"),
        pytest.param(norms(stage="validation", gap=2.0, frozen=True), LONG, id="left alone"),
        pytest.param(norms(stage="validation", gap=2.0, initial=False), LONG, id="updated"),
    ],
)
def test_silent(obs, plan):
    assert judged(BatchNormStaleStats(), obs, plan=plan) == []


def told(*gaps, first=2.3):
    check = BatchNormStaleStats()
    list(check.on_losses(Losses(values=((0, first), (1, 0.1)))))
    return [f for obs in gaps for f in check.on_mode_gap(obs)]


def gap(**changes):
    fields = {"batch": 0.5, "running": 3.0, "place": "net.1", "gap": 1.6, "scale": 2.4}
    return ModeGap(**fields | changes)


def test_compares_losses_twice():
    (finding,) = told(gap(place="net.4"), gap())
    assert finding.where == "net.1"
    assert finding.message == (
        "On one training batch, with dropout off, the loss is 3 by running statistics and 0.5 by"
        " those of the batch; most of it comes from net.1, whose running mean is 1.6 standard"
        " deviations away (variances differ by a factor of 2.4)."
    )


@pytest.mark.parametrize(
    "gaps",
    [
        pytest.param([gap()], id="once"),
        pytest.param([gap(), gap(running=0.6)], id="caught up"),
        pytest.param([gap(running=0.6)] * 2, id="no harm"),
        pytest.param([gap(batch=0.001, running=0.01)] * 2, id="both tiny"),
        pytest.param([gap(gap=0.3, scale=1.4)] * 2, id="near"),
        pytest.param([ModeGap(skipped="no batch norm runs")] * 2, id="skipped"),
        pytest.param([gap(running=math.nan)] * 2, id="not finite"),
    ],
)
def test_losses_silent(gaps):
    assert told(*gaps) == []
