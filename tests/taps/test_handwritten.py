"""Losses that are spelled out: what is recognised, and what is not one."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional import mean_squared_error

from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.handwritten import HandwrittenTap
from lightning_debug.taps.trace import Trace

LOGITS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(16) % 5
SOFT = F.one_hot(CLASSES, 5).float() * 0.9 + 0.02
VALUES = torch.linspace(-1.0, 1.0, 16)


def hear(compute):
    """Return what is heard in a computation on logits that carry a gradient."""

    def fail(error):
        raise error

    trace = Trace({})
    tap = HandwrittenTap(trace)
    functions = FunctionTap(trace, [tap], fail)
    logits = LOGITS.clone().requires_grad_() * 1.0
    tap.begin(wanted=True)
    with functions:
        functions.listening = True
        loss = compute(logits)
        functions.listening = False
    return tap.heard(loss)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: ((z[:, 0] - VALUES) ** 2).mean(), id="power"),
        pytest.param(lambda z: (VALUES - z[:, 0]).square().sum() / 16, id="the other way round"),
        pytest.param(lambda z: (2.0 * (z[:, 0] - VALUES).pow(2)).mean(), id="weighted"),
        pytest.param(lambda z: mean_squared_error(z[:, 0], VALUES), id="torchmetrics"),
        pytest.param(lambda z: ((z[:, 0] - VALUES) ** 2).mean().sqrt(), id="root mean square"),
        pytest.param(
            lambda z: (lambda d: (d * d).sum())(z[:, 0] - VALUES), id="a difference times itself"
        ),
    ],
)
def test_squared_error(compute):
    (heard,) = hear(compute)
    assert heard.function == "squared error"
    assert heard.kind == "regression"
    assert heard.value.mean() == pytest.approx(((LOGITS[:, 0] - VALUES) ** 2).mean())
    assert heard.again(torch.zeros(16)).mean() == pytest.approx((VALUES**2).mean())


def test_absolute_error():
    (heard,) = hear(lambda z: (z[:, 0] - VALUES).abs().mean())
    assert heard.function == "absolute error"
    assert heard.value.mean() == pytest.approx((LOGITS[:, 0] - VALUES).abs().mean())


def test_shapes_are_those_of_the_two_sides():
    (heard,) = hear(lambda z: ((z[:, :1] - VALUES) ** 2).mean())
    assert heard.prediction.shape == (16, 1)
    assert heard.target.shape == (16,)
    assert heard.value.shape == (16, 16)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda d: torch.max(0.9 * d, -0.1 * d).mean(), id="pinball"),
        pytest.param(lambda d: torch.log(torch.cosh(d)).mean(), id="log-cosh"),
        pytest.param(lambda d: (d / 0.5).square().sum() / 16, id="scaled"),
        pytest.param(lambda d: (d / VALUES.exp()).abs().mean(1).mean(), id="percentage"),
        pytest.param(lambda d: 0.5 * ((d * 3.0) ** 2 + 1.0).mean(), id="Gaussian"),
    ],
)
def test_error_of_all_with_all(compute):
    (heard,) = hear(lambda z: compute(z[:, :1] - VALUES))
    assert heard.function == "handwritten error"
    assert heard.kind == "other"
    assert heard.prediction.shape == (16, 1)
    assert heard.target.shape == (16,)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda d: torch.exp(-(d**2)).mean(), id="kernel"),
        pytest.param(lambda d: (1.0 / (1.0 + d**2)).mean(), id="Cauchy kernel"),
        pytest.param(lambda d: d.abs().min(dim=1).values.mean(), id="nearest neighbours"),
        pytest.param(lambda d: -torch.logsumexp(-(d**2), dim=1).mean(), id="mixture density"),
        pytest.param(lambda d: -(-d.abs()).log_softmax(1).diagonal().mean(), id="contrastive"),
        pytest.param(lambda d: (d.relu().sum(1) - VALUES).square().mean(), id="knots"),
        pytest.param(lambda d: d.mean(), id="the difference alone"),
    ],
)
def test_pairs_on_purpose(compute):
    heard = hear(lambda z: compute(z[:, :1] - VALUES))
    assert [h for h in heard if h.prediction.shape == (16, 1)] == []


def test_targets_of_all_samples_that_the_model_makes():
    def ahead():
        return F.linear(LOGITS, torch.ones(1, 5)).squeeze(1)

    (heard,) = hear(lambda z: ((z[:, :1] - (VALUES + ahead())) ** 2).mean())
    assert heard.function == "squared error"
    assert hear(lambda z: torch.relu(1.0 - (z[:, :1] - ahead())).mean()) == []


def test_no_pairs_with_weights():
    knots = torch.nn.Parameter(VALUES)
    assert hear(lambda z: (0.5 * (VALUES[:, None] - knots)).relu().mean()) == []


def surrogate(z):
    """The smaller of two products, as in PPO."""
    ratio = z[:, :1].exp()
    return -torch.min(ratio * VALUES, ratio.clamp(0.8, 1.2) * VALUES).mean()


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: -(z[:, :1] * VALUES).mean(), id="mean"),
        pytest.param(lambda z: (VALUES[:, None] * z[:, 0]).sum() / 16, id="sum, target first"),
        pytest.param(
            lambda z: (z[:, :1] / VALUES.exp()).mean(0).mean(), id="quotient, mean by axis"
        ),
        pytest.param(lambda z: (z[:, :1].exp() - VALUES * z[:, :1]).mean(), id="Poisson"),
        pytest.param(
            lambda z: (
                -(VALUES * F.logsigmoid(z[:, :1]) + (1 - VALUES) * F.logsigmoid(-z[:, :1])).mean()
            ),
            id="sum of two products",
        ),
        pytest.param(surrogate, id="smaller of two products"),
        pytest.param(lambda z: (2.0 * (z[:, :1] * VALUES)).to(torch.float64).mean(), id="scaled"),
    ],
)
def test_product_of_all_with_all(compute):
    heard = [h for h in hear(compute) if h.function == "handwritten product"]
    (heard,) = heard
    assert heard.kind == "other"
    assert heard.prediction.numel() == heard.target.numel() == 16
    assert heard.prediction.requires_grad
    assert not heard.target.requires_grad


PAIRED = torch.linspace(0.0, 1.0, 256).view(16, 16)


def bilinear(z):
    """A critic of pairs: high for those that belong together, low for all."""
    scores = z[:, :1] * VALUES
    return scores.mean() - scores.diagonal().mean()


def moments(z):
    """The distance of two distributions by a linear kernel."""
    itself = (z[:, :1] * z[:, 0]).mean() + (VALUES[:, None] * VALUES).mean()
    return itself - 2.0 * (z[:, :1] * VALUES).mean()


def curve(z):
    """Lines over a grid that has as many points as there are samples, with a small mean."""
    lines = z[:, :1] * VALUES + z[:, 1:2]
    return F.mse_loss(lines, PAIRED) + lines.mean()


def test_product_of_maps_with_masks_of_fewer_axes():
    mask = (LOGITS > 0.0).float().view(4, 4, 5)
    (heard,) = hear(lambda z: (z.view(4, 1, 4, 5).abs() * mask).sum() / mask.sum())
    assert heard.function == "handwritten product"
    assert hear(lambda z: (z.view(4, 1, 4, 5).abs() * mask[:, None]).sum()) == []


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: (1.0 + z[:, :1] * VALUES).pow(2).mean(), id="polynomial kernel"),
        pytest.param(moments, id="linear kernel"),
        pytest.param(bilinear, id="bilinear critic"),
        pytest.param(curve, id="curve over a grid"),
        pytest.param(lambda z: (z[:, :1] * VALUES - PAIRED).square().mean(), id="own error of it"),
        pytest.param(lambda z: (z[:, :1] * VALUES * PAIRED).mean(), id="mask of pairs"),
        pytest.param(lambda z: (PAIRED / (z[:, :1] * VALUES)).mean(), id="over the product"),
        pytest.param(lambda z: (z[:, :1] * VALUES).softmax(1).mean(), id="attention"),
        pytest.param(lambda z: (z[:, :1] * VALUES).max(1).values.mean(), id="best of each"),
        pytest.param(lambda z: ((z[:, :1] * VALUES).sum(1) * VALUES).mean(), id="sum for each"),
        pytest.param(lambda z: (z[:, 0][:, None] * VALUES).mean(), id="an axis put in for it"),
        pytest.param(lambda z: (z[:, :1] * VALUES[None]).mean(), id="two axes each"),
        pytest.param(lambda z: (z[:, :1] * VALUES * z[:, 0]).mean(), id="pairs of predictions"),
        pytest.param(lambda z: (VALUES[:, None] * (PAIRED * z[:, 0])).mean(), id="weighted pairs"),
        pytest.param(lambda z: (z[:, :1] * torch.ones(16)).mean(), id="constants"),
    ],
)
def test_products_on_purpose(compute):
    assert [h for h in hear(compute) if h.function == "handwritten product"] == []


def test_no_products_with_weights():
    weights = torch.nn.Parameter(VALUES)
    assert hear(lambda z: (VALUES[:, None] * weights).mean()) == []


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: -z.log_softmax(1).gather(1, CLASSES[:, None]).mean(), id="gather"),
        pytest.param(lambda z: -F.log_softmax(z, 1)[torch.arange(16), CLASSES].mean(), id="index"),
        pytest.param(
            lambda z: -z.softmax(1).clamp_min(1e-9).log().gather(1, CLASSES[:, None]).mean(),
            id="log of a softmax",
        ),
        pytest.param(
            lambda z: -(F.one_hot(CLASSES, 5).float() * z.log_softmax(1)).sum(1).mean(),
            id="one-hot",
        ),
    ],
)
def test_cross_entropy(compute):
    (heard,) = hear(compute)
    assert heard.function == "cross_entropy"
    assert heard.kind == "logits"
    expected = F.cross_entropy(LOGITS, CLASSES).item()
    assert heard.value.item() == pytest.approx(expected, rel=1e-5)
    assert heard.again(torch.zeros(16, 5)).item() == pytest.approx(math.log(5))


def test_soft_targets():
    (heard,) = hear(lambda z: -(SOFT * torch.log(torch.softmax(z, -1))).sum(1).mean())
    assert heard.value.item() == pytest.approx(F.cross_entropy(LOGITS, SOFT).item(), rel=1e-5)


def test_pixels_come_with_classes_on_axis_one():
    (heard,) = hear(
        lambda z: -z.view(4, 4, 5).log_softmax(-1).gather(-1, CLASSES.view(4, 4, 1)).mean()
    )
    assert heard.prediction.shape == (4, 5, 4)
    assert heard.target.shape == (4, 4)


def test_focal_loss_is_a_cross_entropy():
    def focal(z):
        logp = z.log_softmax(1).gather(1, CLASSES[:, None])
        return -((1 - logp.exp()) ** 2 * logp).mean()

    (heard,) = hear(focal)
    assert heard.function == "cross_entropy"


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda z: z.square().mean(), id="no target"),
        pytest.param(lambda z: ((z[:8] - z[8:]) ** 2).mean(), id="two predictions"),
        pytest.param(lambda z: ((z - 1.0) ** 2).mean(), id="a constant"),
        pytest.param(lambda z: (z[:, 0] - VALUES).mean(), id="a difference alone"),
        pytest.param(
            lambda z: (((z[:, 0] - VALUES) ** 2).detach() + z[:, 0]).mean(), id="not trained"
        ),
        pytest.param(
            lambda z: -(z.log_softmax(1).gather(1, CLASSES[:, None]).squeeze(1) * VALUES).mean(),
            id="log-probabilities of actions times their advantage",
        ),
    ],
)
def test_silent(compute):
    assert hear(compute) == []
