"""batch-mixing on hand-written observations."""

import pytest

from lightning_debug.checks.start_simple.batch_mixing import BatchMixing
from lightning_debug.observation import BatchMixing as Seen
from lightning_debug.observation import MixedOutput
from tests.build_probes import mixing


def test_fires() -> None:
    (found,) = BatchMixing().on_batch_mixing(mixing("encoder.0"))
    assert found.where == "encoder.0"
    assert found.severity == "error"
    assert found.message == (
        "Of 6 samples one was exchanged for another, in eval mode, and the output of encoder.0"
        " (Linear) changed for other samples, too."
    )


def test_names_every_module() -> None:
    found = BatchMixing().on_batch_mixing(mixing("encoder.0", "decoder"))
    assert [f.where for f in found] == ["encoder.0", "decoder"]


def test_outside_modules() -> None:
    output = MixedOutput(place="training_step", function="cross_entropy")
    (found,) = BatchMixing().on_batch_mixing(Seen(samples=6, outputs=(output,)))
    assert "the prediction that cross_entropy compares with the target" in found.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(mixing(), id="no output mixes"),
        pytest.param(Seen(skipped="the batch is not made of samples"), id="skipped"),
    ],
)
def test_silent(obs) -> None:
    assert not list(BatchMixing().on_batch_mixing(obs))
