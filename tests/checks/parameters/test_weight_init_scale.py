import pytest

from lightning_debug.checks.parameters.weight_init_scale import WeightInitScale
from tests.build_observations import activations, module, run_start


def findings(start, layer, **run):
    check = WeightInitScale()
    found = list(check.on_run_start(run_start(net__0__weight=start, **run)))
    return found + list(check.on_activations(activations(module("net.0", **layer))))


def test_fires():
    (finding,) = findings({"rms": 10.0}, {"rms": 80.0})
    assert finding.message == (
        "The initial weights of net.0.weight are 80 / sqrt(fan_in) in rms; about 1 is usual. Its"
        " layer turns an rms of 1 into 80."
    )
    assert finding.where == "net.0.weight"


def test_fires_on_tiny_weights():
    (finding,) = findings({"rms": 1e-6}, {"rms": 1e-5})
    assert "are 8e-06 / sqrt(fan_in)" in finding.message


def test_fires_on_memory_that_was_never_filled():
    (finding,) = findings({"largest": 3e33}, {})
    assert finding.message == (
        "net.0.weight holds values up to 3e+33 before the first step: memory that was never"
        " initialised."
    )


@pytest.mark.parametrize(
    ("start", "layer", "run"),
    [
        pytest.param({}, {}, {}, id="usual"),
        pytest.param({"rms": 0.0}, {"rms": 0.0}, {}, id="zero"),
        pytest.param({"rms": 10.0}, {"rms": 80.0}, {"resumed": True}, id="resumed"),
        pytest.param({"rms": 10.0}, {"rms": 1.5}, {}, id="output of a usual size"),
        pytest.param({"rms": 10.0}, {"rms": 80.0, "normalized": True}, {}, id="norm after it"),
        pytest.param({"rms": 10.0}, {"integer_input": True, "rms": 10.0}, {}, id="embedding"),
        pytest.param({"rms": 10.0, "trainable": False}, {"rms": 80.0}, {}, id="frozen"),
        pytest.param({"rms": 1.0, "fan_in": 1}, {"rms": 20.0}, {}, id="one input"),
        pytest.param({"rms": 1.0, "fan_in": 0, "shape": (64,)}, {"rms": 20.0}, {}, id="bias"),
    ],
)
def test_silent(start, layer, run):
    assert not findings(start, layer, **run)
