import pytest

from lightning_debug.checks.connections.tied_weights_lost import TiedWeightsLost
from lightning_debug.finding import Severity
from tests.build_connections import ties
from tests.build_updates import told


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(
            "parted",
            "head.weight and table.weight were one parameter when the trainer got the model, and"
            " are two now, each trained for itself.",
            id="parted",
        ),
        pytest.param(
            "memory",
            "head.weight and table.weight are two parameters over the same memory: each has a"
            " gradient of its own, and the optimizer moves the same values twice.",
            id="the same memory",
        ),
        pytest.param(
            "copy",
            "head.weight started as an exact copy of table.weight, and each is trained for itself:"
            " an output layer that is copied from an embedding is not tied to it.",
            id="copied",
        ),
    ],
)
def test_fires(kind, message):
    [finding] = told(TiedWeightsLost(), ties({"kind": kind}))
    assert finding.message == message
    assert (finding.where, finding.severity) == ("head.weight", Severity.WARNING)


def test_silent_while_a_copy_is_equal():
    assert told(TiedWeightsLost(), ties({"kind": "copy", "apart": False})) == []


def test_silent_without_ties():
    assert told(TiedWeightsLost(), ties()) == []
