import pytest
import torch

from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.muted import MutedTap
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Ledger


def off(step):
    """Tell whether a step on a loss that carries a gradient switches a term off."""
    muted, ledger = MutedTap(), Ledger()
    loss = torch.ones((), requires_grad=True).sin()
    tap = FunctionTap(Trace({}), [muted], lambda error: pytest.fail(str(error)))
    muted.begin(ledger)
    with tap:
        tap.listening = True
        step(loss)
        tap.listening = False
    ledger.send()
    ledger.settle()
    return muted.off


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda loss: 0.0 * loss, id="zero first"),
        pytest.param(lambda loss: loss * 0, id="zero last"),
        pytest.param(lambda loss: loss.mul(0.0), id="method"),
        pytest.param(lambda loss: torch.mul(loss, 0.0), id="function"),
        pytest.param(lambda loss: loss * torch.zeros(()), id="tensor"),
        pytest.param(lambda loss: loss * False, id="switch"),
        pytest.param(lambda loss: loss + 0.0 * loss.cos(), id="one term of two"),
    ],
)
def test_off(step):
    assert off(step)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda loss: loss, id="nothing"),
        pytest.param(lambda loss: 1e-9 * loss, id="tiny weight"),
        pytest.param(lambda loss: loss * torch.ones(()), id="tensor of one"),
        pytest.param(lambda loss: loss.detach() * 0.0, id="no gradient"),
        pytest.param(lambda loss: (loss * torch.ones(3)) * 0.0, id="no scalar"),
        pytest.param(lambda loss: loss * loss, id="two losses"),
        pytest.param(lambda loss: loss.clamp(max=0.5), id="clamped: a fault"),
    ],
)
def test_on(step):
    assert not off(step)
