import pytest
import torch

from lightning_debug.checks.data.train_val_overlap import TrainValOverlap
from lightning_debug.finding import Severity
from lightning_debug.observation import Validation, ValidationPrints
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


def judge_classes(rare, frequent, *, apart=True, labels=None):
    """Train on rare samples 0 to 39, eight times each, and on others; validate on these."""
    check = TrainValOverlap()
    list(check.on_run_start(start(samples=640)))
    every = [prints(1, i % 40)[0] if i % 2 else prints(1, 1000 + i)[0] for i in range(640)]
    for step in range(20):
        tensor = inputs(prints=tuple(every[32 * step : 32 * step + 32]))
        list(check.on_batch(batch(tensor, targets(), step=step)))
    labels = labels or (1.0,) * len(rare) + (0.0,) * len(frequent)
    found = (
        ValidationPrints(path="batch[0]", prints=(*rare, *frequent), apart=apart),
        ValidationPrints(path="batch[1]", prints=tuple((label, 1.0) for label in labels)),
    )
    return list(check.on_validation(Validation(step=20, prints=found)))


def copies(numbers):
    return tuple(prints(1, number)[0] for number in numbers)


EVEN = copies(1 + 2 * (i * 7 % 20) for i in range(60))
UNEVEN = copies([1] * 20 + [3] * 10 + [5] * 5 + [7 + 2 * (i % 17) for i in range(25)])


def test_a_class_whose_samples_were_copied():
    (finding,) = judge_classes(EVEN, prints(60, 2000))
    assert "About 50% of the validation samples" in finding.message


@pytest.mark.parametrize(
    ("rare", "frequent", "settings"),
    [
        pytest.param(UNEVEN, prints(60, 2000), {}, id="some are frequent"),
        pytest.param(EVEN, prints(60, 2000), {"apart": False}, id="share numbers"),
        pytest.param(EVEN, EVEN, {}, id="all classes come again"),
        pytest.param(EVEN, prints(60, 2000), {"labels": (0.0, 1.0) * 60}, id="in all classes"),
        pytest.param(EVEN, prints(60, 2000), {"labels": (0.0, 1.0)}, id="labels of something else"),
        pytest.param(prints(60, 3000), prints(60, 2000), {}, id="others"),
    ],
)
def test_samples_that_come_again_by_nature(rare, frequent, settings):
    assert not judge_classes(rare, frequent, **settings)
