"""What watches the wrong way, or nothing."""

import pytest

from lightning_debug.checks import MonitorModeReversed
from lightning_debug.observation import MetricPass, Tracking, Validation, Watcher


def run(values, *, mode="min", name="val_acc", losses=(), stage="run", uses=(), complete=True):
    """Return what the check says of a checkpoint when the run is over."""
    check = MonitorModeReversed()
    watchers = (Watcher(name="ModelCheckpoint", monitor=name, mode=mode),)
    for value, loss in zip(values, losses, strict=False):
        obs = Tracking(metrics={name: value, "val_loss": loss}, watchers=watchers, uses=uses)
        list(check.on_tracking(obs))
        list(check.on_validation(Validation(loss=loss)))
    metrics = {name: values[-1]} if values else {"val_loss": 1.0}
    return list(
        check.on_tracking(
            Tracking(stage=stage, metrics=metrics, watchers=watchers, complete=complete)
        )
    )


def test_fires_by_name():
    (finding,) = run([0.5])
    assert finding.message == (
        "ModelCheckpoint(monitor='val_acc') has mode='min', but higher is better for what the name"
        " says, so it takes the worst for the best."
    )
    assert finding.fix == 'Write ModelCheckpoint(monitor="val_acc", mode="max").'
    assert finding.where == "ModelCheckpoint"


def test_fires_by_object():
    use = MetricPass(place="f1", higher_is_better=True, whole=0.5, batches=3)
    (finding,) = run([0.5, 0.5], name="quality", losses=[1.0, 0.9], uses=(use,))
    assert "metric object" in finding.message


def test_fires_on_the_loss_under_another_name():
    losses = [1.0, 0.9, 0.8]
    assert run(losses, name="objective", mode="max", losses=losses)


def test_fires_on_what_is_never_logged():
    (finding,) = run([])
    assert "never logged; logged are 'val_loss'" in finding.message


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        pytest.param([0.5], {"mode": "max"}, id="right way"),
        pytest.param([0.5], {"name": "val_score"}, id="a name that does not say"),
        pytest.param([0.5], {"name": "neg_loss", "mode": "max"}, id="turned round"),
        pytest.param([], {"complete": False}, id="not logged yet"),
        pytest.param(
            [0.5, 0.4, 0.3], {"losses": [1.0, 0.8, 0.6]}, id="the curve contradicts the name"
        ),
        pytest.param(
            [0.5], {"losses": [1.0], "stage": "validation"}, id="no curve yet to contradict it"
        ),
    ],
)
def test_silent(values, settings):
    assert run(values, **settings) == []
