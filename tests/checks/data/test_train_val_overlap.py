import pytest
import torch

from lightning_debug.checks.data.train_val_overlap import TrainValOverlap
from lightning_debug.finding import Severity
from tests.build_data import batch, inputs, prints, start, targets, validation


def judge(*found, looks=10, **loader):
    """Train on samples 0 to 319 and validate on these."""
    check = TrainValOverlap()
    list(check.on_run_start(start(**{"samples": 320, "shared": 0.0} | loader)))
    for step in range(looks):
        tensor = inputs(prints=prints(32, 32 * step))
        assert not list(check.on_batch(batch(tensor, targets(), step=step)))
    return list(check.on_validation(validation(*found)))


def few(samples, first=0):
    """Return fingerprints of which there are only 50."""
    return tuple((float(7 * i % 50), 1.0) for i in range(first, first + samples))


def test_fires():
    (finding,) = judge(prints(100, 270))
    assert finding.message == (
        "About 50% of the validation samples are training samples: 50 of those compared have"
        " exactly the same input."
    )
    assert finding.where == "validation data"
    assert finding.severity == Severity.ERROR


def test_estimates_from_the_part_that_was_seen():
    (finding,) = judge(prints(100, 295), samples=640)
    assert finding.evidence["share"] == pytest.approx(0.5)


def test_one_match_is_enough_where_the_loaders_share_samples():
    (finding,) = judge(prints(64, 319), shared=1.0)
    assert "About 100%" in finding.message


def test_training_data_in_one_of_several_loaders_is_information():
    (finding,) = judge(prints(64, 1000), prints(64))
    assert finding.severity == Severity.INFO
    assert finding.where == "validation data 1"


@pytest.mark.parametrize(
    ("found", "settings"),
    [
        pytest.param(prints(100, 1000), {}, id="others"),
        pytest.param(prints(100, 318), {}, id="a few rows"),
        pytest.param(prints(100), {"overfit": True}, id="overfit a few batches"),
        pytest.param(prints(100), {"looks": 0}, id="nothing seen"),
        pytest.param(((float("nan"), 0.0),) * 64, {}, id="not finite"),
    ],
)
def test_silent(found, settings):
    assert not judge(found, **settings)


def test_silent_where_few_samples_are_possible():
    check = TrainValOverlap()
    list(check.on_run_start(start()))
    for step in range(10):
        list(check.on_batch(batch(inputs(prints=few(32, 32 * step)), targets(), step=step)))
    assert not list(check.on_validation(validation(few(64, 1000))))


def drawn_again(steps=10, batch=32):
    """Return batches of 320 samples, each drawn with replacement."""
    numbers = torch.randint(0, 320, (steps * batch,), generator=torch.Generator().manual_seed(0))
    every = prints(320)
    return [tuple(every[i] for i in part.tolist()) for part in numbers.split(batch)]


def judge_drawn(found, *, repeats=True):
    check = TrainValOverlap()
    list(check.on_run_start(start(samples=320, order="own", repeats=repeats)))
    for step, drawn in enumerate(drawn_again()):
        list(check.on_batch(batch(inputs(prints=drawn), targets(), step=step)))
    return list(check.on_validation(validation(found)))


def test_what_a_sampler_repeats_is_not_alike_by_nature():
    (finding,) = judge_drawn(prints(100, 100))
    assert "About 100%" in finding.message
    assert not judge_drawn(prints(100, 1000))


def test_a_sampler_that_repeats_leaves_only_the_validation_data_to_tell_nature():
    assert not judge_drawn(prints(20, 100))
