import pytest

from lightning_debug.checks.connections.weights_not_updated import WeightsNotUpdated
from lightning_debug.finding import Severity
from lightning_debug.observation import Connections, GradientUse, Rewrite, RunEnd
from tests.build_observations import gradients, run_start
from tests.build_precision import narrow
from tests.build_updates import told, updates

STUCK = {"changed": 0, "update_rms": 0.0}
REST = {**STUCK, "lr": 0.0, "scheduled": True}


def test_fires_at_learning_rate_zero():
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {**STUCK, "lr": 0.0}}))
    assert finding.message == (
        "net.0.weight has a gradient but has never changed: its learning rate is 0."
    )
    assert (finding.where, finding.severity) == ("net.0.weight", Severity.ERROR)


def test_fires_where_steps_do_nothing():
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {**STUCK, "lr": 0.1}}))
    assert finding.message == (
        "net.0.weight has a gradient but a step with learning rate 0.1 leaves it as it is."
    )


def test_silent_where_a_step_rounds_to_nothing():
    stuck = updates({"net.weight": {"changed": 0, "driven": 9}})
    assert told(WeightsNotUpdated(), stuck)
    assert not told(WeightsNotUpdated(), narrow("net.weight"), stuck)
    assert told(WeightsNotUpdated(), narrow("net.weight", step=1.0), stuck)


@pytest.mark.parametrize(
    ("bias", "silent"),
    [
        pytest.param({"norm": 1e-8, "dims": 1}, True, id="rounding errors of the weight's"),
        pytest.param({"norm": 1e-3, "dims": 1}, False, id="small"),
        pytest.param({"norm": 1e-8, "dims": 2}, False, id="a weight"),
    ],
)
def test_a_bias_without_effect_need_not_move(bias, silent):
    check, stuck = WeightsNotUpdated(), updates({"conv.bias": {"changed": 0, "driven": 9}})
    seen = gradients(conv__weight={"norm": 0.5, "dims": 4}, conv__bias=bias)
    assert bool(told(check, seen, stuck)) is not silent
    # What was noise while a batch norm followed may have an effect later.
    works = gradients(conv__weight={"norm": 0.5, "dims": 4}, conv__bias={"norm": 0.1, "dims": 1})
    assert told(check, works, stuck)


def test_fires_where_the_old_values_come_back():
    step = updates({"net.0.weight": {"moved": False}})
    [finding] = told(WeightsNotUpdated(), updates({"net.0.weight": {}}), step)
    assert finding.message == (
        "Each step changes net.0.weight, but before the next one it is what it was before:"
        " something writes the old values back."
    )


def test_fires_when_a_schedule_stays_at_zero_in_the_next_epoch():
    check = WeightsNotUpdated()
    assert told(check, updates({"w": REST}, epoch=0)) == []
    assert [f.where for f in told(check, updates({"w": REST}, epoch=1))] == ["w"]


def test_fires_when_a_schedule_stays_at_zero_to_the_end():
    [finding] = told(WeightsNotUpdated(), updates({"w": REST}), RunEnd(step=64, epoch=1))
    assert (finding.where, finding.patience) == ("w", 1)


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([updates({"w": {"moved": True}})], id="moves"),
        pytest.param([updates({"w": {}})], id="the first look"),
        pytest.param(
            [updates({"w": REST}), updates({"w": {"moved": False}})], id="the first step that moves"
        ),
        pytest.param([updates({"w": {**STUCK, "driven": 0}})], id="no gradient"),
        pytest.param([updates({"w": {**STUCK, "trainable": False}})], id="frozen"),
        pytest.param([updates({"w": REST})], id="warm-up from zero"),
        pytest.param([updates({"w": REST}), RunEnd(step=3)], id="a dry run"),
        pytest.param(
            [updates({"w": REST}), RunEnd(step=64, completed=False)], id="warm-up, interrupted"
        ),
        pytest.param(
            [updates({"w": REST}), updates({"w": {}}), RunEnd(step=64)], id="warm-up is over"
        ),
        pytest.param([updates({"w": {}}), updates({"w": REST}, epoch=3)], id="decayed to zero"),
        pytest.param([updates({"w": {}}), updates({"w": STUCK})], id="converged to the last digit"),
    ],
)
def test_silent(observations):
    assert told(WeightsNotUpdated(), *observations) == []


def rewritten(epoch, **changes):
    return Connections(epoch=epoch, rewrites=(Rewrite(epoch=epoch, **changes),))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"drawn": 1.0},
            "Epoch 2 starts with weights that are not correlated with those that the epoch before"
            " had ended with (100% of the weight matrices)",
            id="drawn anew",
        ),
        pytest.param(
            {"restored": 0.75},
            "Epoch 2 starts with weights that are exactly those that training had started with"
            " (75% of the weight matrices)",
            id="loaded again",
        ),
    ],
)
def test_fires_where_epochs_start_anew(changes, says):
    check = WeightsNotUpdated()
    [finding] = told(check, rewritten(1, **changes), rewritten(2, **changes))
    assert finding.message.startswith(says)
    assert finding.patience == 1


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([rewritten(1, drawn=1.0)], id="once"),
        pytest.param([rewritten(1, drawn=1.0), rewritten(2), rewritten(3, drawn=1.0)], id="twice"),
        pytest.param([rewritten(e, drawn=0.3, restored=0.3) for e in range(5)], id="few of them"),
    ],
)
def test_silent_between_epochs(observations):
    assert told(WeightsNotUpdated(), *observations) == []


STEP = Connections(uses=(GradientUse(optimizer="Adam", empty=True),), backwards=0)


def test_fires_without_a_loss():
    [finding] = told(WeightsNotUpdated(), STEP)
    assert finding.message == (
        "Adam makes steps without a gradient: backward has never run, because training_step"
        " returns no loss."
    )


def test_a_batch_that_is_skipped_is_fine():
    assert told(WeightsNotUpdated(), Connections(), STEP) == []


GONE = {"present": False, "largest": 0.0, "norm": 0.0}
CLEARED = Connections(uses=(GradientUse(optimizer="Adam", empty=True, cleared=True),))


def test_fires_where_gradients_are_cleared_before_the_step():
    [finding] = told(WeightsNotUpdated(), CLEARED, gradients(net__0__weight=GONE))
    assert finding.message == (
        "Adam makes steps without a gradient: backward gives one to its parameters, and it is"
        " cleared before the step."
    )
    assert "zero_grad() before backward" in finding.fix


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([CLEARED, gradients(a=GONE, b={})], id="some are left"),
        pytest.param([CLEARED, gradients("SGD", a=GONE)], id="another optimizer"),
        pytest.param([CLEARED, Connections(), gradients(a=GONE)], id="in another batch"),
    ],
)
def test_silent_where_not_all_is_cleared(observations):
    assert told(WeightsNotUpdated(), *observations) == []


FROZEN = {**STUCK, "trainable": False, "stateful": True, "driven": 0}


def test_warns_of_what_a_resumed_run_froze():
    start, step = run_start(resumed=True), updates({"body.weight": FROZEN})
    [finding] = told(WeightsNotUpdated(), start, step)
    assert finding.severity is Severity.WARNING
    assert finding.message == (
        "body.weight was trained before the checkpoint and is frozen since training was resumed:"
        " the optimizer holds it at learning rate 0.001, with state from earlier steps, but it"
        " asks for no gradient."
    )


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([run_start(), updates({"w": FROZEN})], id="not resumed"),
        pytest.param(
            [run_start(resumed=True), updates({"w": {**FROZEN, "stateful": False}})],
            id="never trained",
        ),
        pytest.param(
            [run_start(resumed=True), updates({"w": {}}), updates({"w": FROZEN})],
            id="frozen in this run",
        ),
    ],
)
def test_silent_on_what_is_frozen(observations):
    assert told(WeightsNotUpdated(), *observations) == []
