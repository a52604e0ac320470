from dataclasses import replace

import pytest

from lightning_debug.checks.start_simple.worse_than_baseline import WorseThanBaseline
from lightning_debug.observation import Baselines, SimpleModel


def model(name, score, loss):
    return SimpleModel(name=name, score=score, loss=loss)


SEEN = Baselines(
    function="cross_entropy",
    place="training_step",
    samples=140,
    updates=160,
    model=model("model", 0.25, 2.1),
    simple=(
        model("constant", 0.1, 2.3),
        model("linear", 0.9, 0.5),
        model("one hidden layer", 0.88, 0.6),
    ),
    further=model("trained on", 0.3, 1.9),
    error=0.04,
    gain_error=0.04,
    fall=0.05,
    trend=-4.0,
)


def test_fires():
    (finding,) = WorseThanBaseline().on_baselines(SEEN)
    assert finding.message == (
        "After 160 updates the model predicts with accuracy 0.25, on samples that it was trained"
        " on; a linear model that was trained no longer, on some of the same batches, reaches 0.90"
        " on samples that it has not seen (a constant 0.10). Trained on with Adam, a copy of the"
        " model gets to 0.30."
    )
    assert finding.where == "training_step"


def test_fires_after_a_long_run_that_led_nowhere():
    idle = replace(
        SEEN, updates=400, model=model("model", 0.12, 2.28), fall=0.002, trend=-0.4, further=None
    )
    (finding,) = WorseThanBaseline().on_baselines(replace(idle, layout="pixel"))
    assert "the model predicts of each pixel with accuracy 0.12" in finding.message
    assert "Adam" not in finding.message


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"skipped": "there are several losses"}, id="not applicable"),
        pytest.param({"updates": 80}, id="a short run"),
        pytest.param({"further": None}, id="nobody knows how it would get on"),
        pytest.param({"further": model("trained on", 0.7, 0.9)}, id="it only needs more of it"),
        pytest.param({"further": model("trained on", 0.3, 0.9)}, id="its loss gets on"),
        pytest.param({"model": model("model", 0.75, 0.9)}, id="nearly as good"),
        pytest.param({"model": model("model", 0.25, 0.6)}, id="its loss is as good"),
        pytest.param({"model": model("model", 0.92, 0.4)}, id="better"),
        pytest.param({"error": 0.2}, id="may be chance"),
        pytest.param({"gain_error": 0.25}, id="what the simple model finds may be chance"),
        pytest.param(
            {"simple": (model("constant", 0.1, 2.3), model("linear", 0.15, 2.2))},
            id="a simple model finds little",
        ),
        pytest.param(
            {"simple": (model("constant", 0.1, 2.3), model("linear", 0.9, 3.0))},
            id="a simple model is sure of what is wrong",
        ),
        pytest.param(
            {"updates": 400, "further": model("trained on", 0.9, 0.4), "fall": 0.05},
            id="a long run that gets on slowly",
        ),
    ],
)
def test_silent(changes):
    assert list(WorseThanBaseline().on_baselines(replace(SEEN, **changes))) == []
