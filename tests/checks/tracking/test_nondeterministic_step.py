"""nondeterministic-step on hand-written observations."""

import pytest

from lightning_debug.checks.tracking.nondeterministic_step import NondeterministicStep
from lightning_debug.observation import StepRepeat


def differing(**changes):
    """Return a step whose loss differs for a generator without a seed."""
    fields = {
        "losses": (2.301, 2.318),
        "change": 7.3e-3,
        "gradient": 0.12,
        "source": "entropy",
        "place": "encoder.noise",
        "line": "train.py:41",
        "code": "rng = np.random.default_rng()",
    }
    return StepRepeat(**fields | changes)


def test_fires() -> None:
    (found,) = NondeterministicStep().on_step_repeat(differing())
    assert (found.severity, found.where) == ("warning", "encoder.noise")
    assert found.message == (
        "From the same weights, batch and seed, the training step gives a loss of 2.301 and then"
        " one of 2.318. It depends on random numbers that no seed reaches:"
        " rng = np.random.default_rng() (train.py:41)."
    )
    assert "pl.seed_everything(seed, workers=True)" in found.fix


@pytest.mark.parametrize(
    ("changes", "message", "fix"),
    [
        pytest.param({"source": "clock"}, "It depends on the time", "self.global_step", id="clock"),
        pytest.param(
            {"source": "memory"}, "nothing has been written to", "torch.zeros", id="memory"
        ),
        pytest.param({"source": "identity"}, "hashes or addresses", "crc32", id="identity"),
        pytest.param(
            {"losses": (2.3, 2.3), "change": 1e-5},
            "gives losses that are 1.0e-05 of their size apart",
            "",
            id="a small difference",
        ),
        pytest.param(
            {"losses": (2.3, 2.3), "change": 0.0},
            "gives gradients that are 1.2e-01 of their size apart",
            "",
            id="gradients only",
        ),
    ],
)
def test_names_the_source(changes, message, fix) -> None:
    (found,) = NondeterministicStep().on_step_repeat(differing(**changes))
    assert found.severity == "warning"
    assert message in found.message
    assert fix in found.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"source": "", "rounding": True}, "No more than another order", id="rounding"),
        pytest.param({"rounding": True}, "It depends on random numbers", id="a tiny noise"),
        pytest.param({"source": "", "device": "cuda"}, "Some kernels of cuda sum up", id="kernels"),
    ],
)
def test_worth_knowing(changes, message) -> None:
    (found,) = NondeterministicStep().on_step_repeat(differing(**changes))
    assert found.severity == "info"
    assert message in found.message


@pytest.mark.parametrize(
    "obs",
    [
        pytest.param(StepRepeat(), id="bit for bit the same"),
        pytest.param(StepRepeat(skipped="the training step gives no loss"), id="skipped"),
    ],
)
def test_silent(obs) -> None:
    assert not list(NondeterministicStep().on_step_repeat(obs))
