"""What the tap on losses makes of one call."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_debug.observation import LossCall
from lightning_debug.taps.loss_features import BatchShape, Features
from lightning_debug.taps.loss_heard import Heard
from lightning_debug.taps.loss_references import log_mean
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Ledger

KINDS = {
    F.cross_entropy: "logits",
    F.binary_cross_entropy_with_logits: "binary-logits",
    F.mse_loss: "regression",
}


def hear(function, prediction, target, batch=()):
    """Return the call with what was measured of it."""
    name = function.__name__
    heard = Heard(
        function=name,
        kind=KINDS[function],
        place="training_step",
        prediction=prediction,
        target=target,
        value=function(prediction, target),
        ignored=-100 if name == "cross_entropy" else None,
    )
    ledger = Ledger()
    with torch.no_grad():
        features = Features.of(heard, Trace({}), BatchShape.of(list(batch)), ledger)
    ledger.send()
    ledger.settle()
    return LossCall(function=name, **features.fields())


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def test_two_sides():
    y = torch.randint(0, 3, (16,))
    call = hear(F.cross_entropy, leaf(16, 3).softmax(1), y, [torch.randn(16, 5), y])
    assert call.kind == "logits"
    assert call.prediction.maker == "softmax"
    assert call.prediction.distributions == 1.0
    assert call.target.dtype == "integer"
    assert call.target.per_sample
    assert call.target.whole
    assert call.target.distinct == len(y.unique())
    assert sum(call.counts.targets) == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_sum_to_one_as_nearly_as_their_format_can(dtype):
    rows = torch.randn(256, 10, generator=torch.Generator().manual_seed(0)).mul(4.0).softmax(1)
    y = torch.randint(0, 10, (256,))
    probable, other = (
        hear(F.cross_entropy, values.to(dtype).requires_grad_(), y).prediction.distributions
        for values in (rows, 1.05 * rows)
    )
    assert probable == 1.0
    assert other == 0.0


def test_ignored_targets_count_nowhere():
    y = torch.tensor([0, 1, 2, -100, -100, 1])
    logits = F.one_hot(y.clamp_min(0), 3).float().requires_grad_()
    call = hear(F.cross_entropy, 5.0 * logits, y)
    assert call.counts.targets == call.counts.correct == (1.0, 2.0, 1.0)


@pytest.mark.parametrize("shape", [(16,), (16, 1)])
def test_binary_counts(shape):
    y = torch.tensor([1.0] * 4 + [0.0] * 12).view(shape)
    call = hear(F.binary_cross_entropy_with_logits, torch.ones(shape, requires_grad=True) * 2, y)
    assert call.counts.targets == (12.0, 4.0)
    assert call.counts.correct == (0.0, 4.0)


def test_dense_targets():
    call = hear(F.cross_entropy, leaf(4, 3, 50, 50), torch.randint(0, 3, (4, 50, 50)))
    assert 0 < sum(call.counts.targets) <= 10_000
    assert not call.target.per_sample
    assert call.ends == ()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("first", ["batch", "time"])
def test_padding_at_the_ends(flat, first):
    y = torch.randint(1, 9, (12, 10))
    lengths = torch.tensor([9, 3, 7, 2, 10, 5, 8, 4, 6, 10, 2, 7])
    y[torch.arange(10) >= lengths[:, None]] = 0
    batch = [y]
    target = y if first == "batch" else y.T.contiguous()
    logits = leaf(*target.shape, 9)
    if flat:
        call = hear(F.cross_entropy, logits.view(-1, 9), target.clone().flatten(), batch)
    else:
        call = hear(F.cross_entropy, logits.movedim(-1, 1), target, batch)
    best = max(call.ends, key=lambda end: end.inside * end.varied)
    assert best.side == "end"
    assert best.symbol == 0
    assert best.inside == 1.0
    assert math.isclose(best.share, float((y == 0).float().mean()), abs_tol=1e-6)


def test_class_numbers_have_no_order():
    y = torch.arange(64) % 8
    x = torch.eye(8)[y] * 3.0 + 0.1 * torch.randn(64, 8)
    call = hear(F.mse_loss, leaf(64, 1), y.float().unsqueeze(1), [x, y])
    assert call.target.ids
    assert call.target.clusters > 2.0
    assert abs(call.target.order) < 0.2
    ordered = hear(F.mse_loss, leaf(64), y.float(), [x + y[:, None] * 3.0, y])
    assert ordered.target.order > 0.8


@pytest.mark.parametrize("axes", [(1,), (1, 2, 3)])
def test_the_reference_of_kl_div_sums_to_one_as_its_targets_do(axes):
    target = torch.rand(4, 5, 6, 6)
    target = target / target.sum(axes, keepdim=True)
    uniform = log_mean(target, target)
    assert torch.allclose(uniform.exp().sum(axes), torch.ones(1), atol=1e-4)
    assert torch.allclose(log_mean(target, target.log()), uniform)
