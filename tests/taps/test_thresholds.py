"""What is compared with classes: positions of the largest, or predictions as they are."""

import pytest
import torch
from torch.nn import functional as F

from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.thresholds import ThresholdTap
from lightning_debug.taps.trace import Trace

LOGITS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(8) % 5
ONE, BINARY = LOGITS[:, 0], CLASSES % 2


def heard(step):
    """Return the comparisons that a step makes, and raise what the tap raises."""

    def failed(error):
        raise error

    trace = Trace({})
    tap = ThresholdTap(trace, "validation_step")
    functions = FunctionTap(trace, [tap], failed)
    functions.open()
    try:
        with torch.inference_mode():
            step()
    finally:
        functions.close()
    return [(made.function, made.logits, made.largest) for made in tap.take()]


def values_of_max():
    F.cross_entropy(LOGITS, CLASSES)
    (torch.max(LOGITS, 1).values == CLASSES).float().mean()


def values_of_topk():
    torch.eq(CLASSES[:, None], LOGITS.softmax(1).topk(2)[0])


def probabilities():
    F.binary_cross_entropy(ONE.sigmoid(), BINARY.float())
    torch.eq(ONE.sigmoid(), BINARY)


def logits_before_the_loss():
    torch.eq(ONE.squeeze(), BINARY.float())
    F.binary_cross_entropy_with_logits(ONE, BINARY.float())


def floating_targets():
    target = BINARY.float()
    torch.eq(target, ONE)
    F.binary_cross_entropy_with_logits(ONE, target)


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (values_of_max, ("eq", True, True)),
        (values_of_topk, ("eq", False, True)),
        (probabilities, ("eq", False, False)),
        (logits_before_the_loss, ("eq", True, False)),
        (floating_targets, ("eq", True, False)),
    ],
)
def test_hears_predictions_that_are_compared_as_they_are(step, what):
    assert heard(step) == [what]


def positions():
    F.cross_entropy(LOGITS, CLASSES)
    torch.eq(torch.max(LOGITS, 1).indices, CLASSES)
    torch.eq(LOGITS.softmax(1).argmax(1), CLASSES)


def written_in_place():
    p = ONE.sigmoid()
    p[p > 0.5] = 1.0
    p[p <= 0.5] = 0.0
    torch.eq(p, BINARY)


def written_in_a_view():
    p = ONE.sigmoid()
    p.view(-1).round_()
    torch.eq(p, BINARY)


def rounded():
    torch.eq(torch.sigmoid(ONE).round(), BINARY)


def mask_of_the_largest():
    F.cross_entropy(LOGITS, CLASSES)
    torch.eq(LOGITS, LOGITS.amax(1, keepdim=True))
    torch.eq(LOGITS.softmax(1), torch.tensor(0))


def not_a_number():
    F.cross_entropy(LOGITS, CLASSES)
    torch.eq(LOGITS, LOGITS)


def question():
    F.cross_entropy(LOGITS, F.one_hot(CLASSES, 5).float())
    assert not torch.eq(LOGITS, F.one_hot(CLASSES, 5)).all()


def ratings():
    F.mse_loss(ONE, CLASSES.float())
    torch.eq(ONE, CLASSES)


@pytest.mark.parametrize(
    "step",
    [
        positions,
        written_in_place,
        written_in_a_view,
        rounded,
        mask_of_the_largest,
        not_a_number,
        question,
        ratings,
    ],
)
def test_is_silent(step):
    assert [made for made in heard(step) if made[0] == "eq"] == []
