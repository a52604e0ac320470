"""What the source of a call says of its flag."""

import pytest
import torch
from torch.nn import functional as F

from lightning_debug.taps.intent import declared
from lightning_debug.taps.lines import user_frame


class Model:
    training = True
    is_training = True
    monte_carlo = True
    p = 0.5


class Hears(torch.overrides.TorchFunctionMode):
    """Asks while a function runs, as taps do."""

    def __init__(self, dedicated=False):
        super().__init__()
        self.dedicated, self.said = dedicated, None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        flagged = func is F.dropout
        self.said = declared(flagged=flagged, dedicated=self.dedicated)
        return func(*args, **kwargs or {})


X, SELF = torch.ones(2, 1, 2, 4), Model()


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        pytest.param(lambda: F.dropout(X, 0.5), False, id="left out"),
        pytest.param(lambda: F.dropout(X, 0.5, True), False, id="True"),
        pytest.param(lambda: F.dropout(X, training=SELF.training), False, id="training"),
        pytest.param(lambda: F.dropout(X, training=SELF.is_training), False, id="is_training"),
        pytest.param(lambda: F.dropout(X, 0.5, SELF.monte_carlo), True, id="a name of its own"),
        pytest.param(
            lambda: F.dropout(
                X,
                p=0.5,
                training=SELF.training or SELF.monte_carlo,
            ),
            True,
            id="either, over several lines",
        ),
        pytest.param(
            lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=SELF.p), False, id="attention"
        ),
        pytest.param(
            lambda: F.scaled_dot_product_attention(
                X, X, X, dropout_p=SELF.p if SELF.monte_carlo else 0.0
            ),
            True,
            id="attention, meant",
        ),
    ],
)
def test_flag(call, meant):
    ears = Hears()
    # The mode runs in this file too, so the innermost frame of the user is its own.
    with ears, pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_debug.taps.intent.user_frame", lambda: _caller(call))
        call()
    assert ears.said is meant


def _caller(call):
    frame = user_frame()
    while frame is not None and frame.f_code is not call.__code__:
        frame = frame.f_back
    return frame


def test_true_in_a_module_that_does_nothing_else_is_meant():
    def call():
        return F.dropout(X, 0.5, True)

    ears = Hears(dedicated=True)
    with ears, pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_debug.taps.intent.user_frame", lambda: _caller(call))
        call()
    assert ears.said is True


def test_without_source_nothing_is_meant():
    scope = {"F": F, "X": X, "SELF": SELF}
    exec("def call():\n    return F.dropout(X, 0.5, SELF.monte_carlo)", scope)
    ears = Hears()
    with ears, pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_debug.taps.intent.user_frame", lambda: _caller(scope["call"]))
        scope["call"]()
    assert ears.said is False
