import pytest

from lightning_debug.checks.loss.padding_in_loss import PaddingInLoss
from lightning_debug.observation import Ends, Targets
from tests.build_observations import loss_calls


def findings(*, ignored=-100, reduction="mean", distinct=20, **changes):
    fields = {"symbol": 0.0, "share": 0.4, "inside": 1.0, "rows": 0.9, "varied": 5.0}
    fields |= {"next_share": 0.05}
    end = Ends(**fields | changes)
    calls = loss_calls(
        kind="logits",
        ends=(Ends(), end),
        ignored=ignored,
        reduction=reduction,
        target=Targets(distinct=distinct),
    )
    return list(PaddingInLoss().on_loss_calls(calls))


def test_fires():
    (finding,) = findings()
    assert finding.message == (
        "40% of the targets of cross_entropy are class 0, all of them in runs at the end of the"
        " sequences; they look like padding, and they count in the loss."
    )
    assert "ignore_index=0)" in finding.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"ignored": 0},
        {"symbol": -100.0},
        {"weight": 0.0},
        {"reduction": "none"},
        {"inside": 0.7},  # it stands inside the sequences too
        {"rows": 0.0},  # one end token
        {"varied": 0.0},  # a suffix of fixed length
        {"distinct": 2},  # before and after an event
        {"share": 0.1},
        {"next_share": 0.35},
    ],
)
def test_silent(changes):
    assert findings(**changes) == []
