import math

from lightning_debug.checks.loss.loss_reduction import LossReduction
from lightning_debug.finding import Severity
from lightning_debug.observation import Losses, ParameterUpdate, RunEnd, Updates
from tests.build_observations import loss_calls


def run(*, losses=(2.3, 2.4), reduction="sum", share=1.0, ratio=0.5, optimizer="SGD", terms=32):
    """Return what the check says of looks with these losses of one target, and at the end."""
    check = LossReduction()
    found = []
    for step, value in enumerate(losses):
        list(check.on_loss_calls(loss_calls(value=value, reduction=reduction, terms=terms)))
        whole = Losses(step=step, values=((step, value * terms * share),))
        update = ParameterUpdate(update_rms=ratio, weight_rms=1.0)
        updates = Updates(step=step, optimizer=optimizer, parameters={"net.0.weight": update})
        found = [*check.on_losses(whole), *check.on_updates(updates)]
    return found, list(check.on_run_end(RunEnd()))


def test_fires():
    (finding,), end = run()
    assert finding.severity == Severity.WARNING
    assert finding.message == (
        "cross_entropy is a sum over 32 targets. The first step changed the weights by 0.5 of their"
        " size, 32 times as much as with the mean; about 1e-3 is usual. The loss of one target has"
        " gone from 2.3 to 2.4."
    )
    assert end == []


def test_tells_at_once_when_the_loss_is_ruined():
    found, _ = run(losses=(2.3, math.nan))
    assert found[0].patience == 1


def test_is_info_where_it_does_no_harm():
    for found, end in (
        run(losses=(2.3, 1.0)),
        run(optimizer="Adam"),
        run(ratio=0.01),
        run(ratio=1000.0),  # the mean would have been too large as well
    ):
        assert found == []
        assert [f.severity for f in end] == [Severity.INFO]


def test_silent():
    assert run(reduction="mean") == ([], [])
    assert run(share=1 / 32) == ([], [])  # divided by hand
    assert run(terms=4) == ([], [])


def test_silent_where_one_target_counts_at_times():
    check = LossReduction()
    for step, share in enumerate((1.0, 1 / 3, 1.0, 1.0)):
        list(check.on_loss_calls(loss_calls(value=2.3, reduction="sum", terms=32)))
        list(check.on_losses(Losses(step=step, values=((step, 2.3 * 32 * share),))))
    assert list(check.on_run_end(RunEnd())) == []
