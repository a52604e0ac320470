import math

import pytest

from lightning_debug.checks.parameters.clipping_too_tight import ClippingTooTight
from lightning_debug.finding import Severity
from lightning_debug.observation import RunEnd
from tests.build_clipping import clipped_by_trainer, clippings, curve, told

FLAT, FALLING = curve(*[2.3] * 40), curve(*[2.3 - 0.04 * i for i in range(40)])
ADAM = {"optimizer": "Adam", "pull": 20.0, "memory": 0.9, "eps": 1e-8, "ratio": 1e-3}


def test_fires_where_steps_become_small():
    [finding] = told(ClippingTooTight(), clipped_by_trainer(), FLAT, *clippings())
    assert finding.message == (
        "Clipping cuts the gradients of SGD from a norm of 11 to 0.01 (medians) at 21 of 21 looks:"
        " one step changes the weights by 1.0e-05 of their size, without clipping it would be"
        " 1.1e-02."
    )
    assert finding.fix == "Trainer(gradient_clip_val=13): nine of ten gradients here are smaller."
    assert finding.severity is Severity.WARNING
    assert finding.where == "SGD"


def test_names_the_line_of_a_clip_by_hand():
    looks = clippings(line="model.py:41")
    [finding] = told(ClippingTooTight(), clipped_by_trainer(automatic=False), *looks)
    assert finding.message.startswith("Clipping at model.py:41 cuts the gradients of SGD")
    assert finding.fix.startswith("torch.nn.utils.clip_grad_norm_(self.parameters(), 13)")


def test_fires_for_gradients_with_the_factor_of_a_scaler():
    looks = clippings(before=0.5, after=7.6e-6, scale=65536.0, scaled_factor=1.5e-5, **ADAM)
    [finding] = told(ClippingTooTight(), *looks)
    assert finding.severity is Severity.WARNING
    assert "still carried the factor 65536 of the gradient scaler" in finding.message
    assert "in on_before_optimizer_step(self, optimizer)" in finding.fix


def test_fires_where_only_signs_are_left():
    looks = clippings(before=0.5, after=0.1, pinned=0.97, **ADAM)
    [finding] = told(ClippingTooTight(), *looks)
    assert "97 % of their elements lie at the limit: only signs are left." in finding.message


def test_fires_where_epsilon_is_larger():
    looks = clippings(before=0.5, after=1e-7, rms=2.5e-9, **ADAM)
    [finding] = told(ClippingTooTight(), *looks)
    assert "drown in the eps=1e-08" in finding.message


def test_a_step_of_fixed_length_is_only_information():
    [finding] = told(ClippingTooTight(), *clippings(**ADAM))
    assert finding.severity is Severity.INFO


def test_judges_a_short_run_at_its_end():
    looks = clippings(looks=8)
    assert told(ClippingTooTight(), *looks) == []
    assert told(ClippingTooTight(), *looks, RunEnd(completed=True))
    assert told(ClippingTooTight(), *looks, RunEnd(completed=False)) == []
    assert told(ClippingTooTight(), *looks[:5], RunEnd(completed=True)) == []


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param([FALLING, *clippings()], id="the loss falls all the same"),
        pytest.param(clippings(ratio=2e-3), id="the learning rate goes with it"),
        pytest.param(clippings(after=5.0), id="a moderate clip"),
        pytest.param(clippings(before=1.0, after=1.0), id="nothing is clipped"),
        pytest.param(
            [*clippings(looks=15), *clippings(before=0.3, after=0.3)[15:]], id="only at the start"
        ),
        pytest.param(clippings(ratio=1e-8, after=0.5), id="small steps without it, too"),
        pytest.param(clippings(ratio=1e-3, after=0.02), id="far too large steps without it"),
        pytest.param(clippings(before=8.0, after=8.0 / 100, cosine=0.1), id="noise is added"),
        pytest.param(clippings(before=math.nan, after=math.nan), id="not measured"),
    ],
)
def test_silent(observations):
    assert told(ClippingTooTight(), clipped_by_trainer(), *observations) == []


def test_silent_where_gradients_are_divided_by_a_constant():
    looks = [look.__class__(**{**_fields(look), "after": look.before / 64}) for look in clippings()]
    assert told(ClippingTooTight(), *looks) == []


def _fields(look):
    return {name: getattr(look, name) for name in ("step", "before", "optimizer", "lr", "pull")}
