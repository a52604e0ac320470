"""The slope of the loss along a step, on a parabola."""

import pytest
import torch
from torch import nn, optim

from lightning_debug.taps.slopes import SlopeTap
from lightning_debug.taps.transfer import Ledger
from lightning_debug.taps.wiring import Wiring


def look(tap, model, optimizer, step, *, scale=1.0):
    """One update of a parabola, looked at; returns the answers that have arrived."""
    ledger = Ledger()
    tap.begin(ledger, None, step)
    optimizer.zero_grad()
    (scale * model.weight**2 / 2.0).sum().backward()
    tap.before_step(optimizer)
    optimizer.step()
    tap.after_step(optimizer)
    tap.end()
    ledger.send()
    ledger.settle()
    return list(tap.observations(step, 0))


def setting(lr, size=(4, 4)):
    torch.manual_seed(0)
    model = nn.Linear(*size, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=lr)
    return SlopeTap(Wiring(model, [optimizer])), model, optimizer


@pytest.mark.parametrize(("lr", "answer"), [(0.1, 0.9), (1.0, 0.0), (1.5, -0.5), (3.0, -2.0)])
def test_a_step_on_a_parabola(lr, answer):
    tap, model, optimizer = setting(lr)
    assert look(tap, model, optimizer, 0) == []
    [obs] = look(tap, model, optimizer, 1)
    assert (obs.optimizer, obs.stream, obs.step) == ("SGD", "SGD", 1)
    assert obs.start < 0.0
    assert obs.end / obs.start == pytest.approx(answer, abs=1e-5)


def test_a_sample_stands_for_the_whole_of_a_large_weight():
    tap, model, optimizer = setting(0.1, (256, 256))
    squares = model.weight.detach().square().sum().item()
    look(tap, model, optimizer, 0)
    [obs] = look(tap, model, optimizer, 1)
    assert obs.start == pytest.approx(-0.1 * squares, rel=0.2)
    assert obs.end / obs.start == pytest.approx(0.9, abs=1e-4)


def test_a_gap_between_looks_tells_nothing():
    tap, model, optimizer = setting(0.1)
    look(tap, model, optimizer, 0)
    assert look(tap, model, optimizer, 5) == []
    assert len(look(tap, model, optimizer, 6)) == 1


def test_parameters_without_a_gradient_are_left_out():
    tap, model, optimizer = setting(0.1)
    unused = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [unused]})
    look(tap, model, optimizer, 0)
    assert len(look(tap, model, optimizer, 1)) == 1
