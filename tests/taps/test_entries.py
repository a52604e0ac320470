"""What enters the first weights: data, on whatever way, and not what weights made of them."""

import pytest
import torch
from torch import nn

from lightning_debug.taps.entries import EntryTap
from lightning_debug.taps.functions import FunctionTap
from lightning_debug.taps.trace import Origin, Trace
from lightning_debug.taps.transfer import Ledger

X = 100.0 * torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
HEAD = nn.Linear(8, 2)


def entries(compute):
    """Return what is known to enter, of a batch of X; modules note what they give."""

    def fail(error):
        raise error

    trace, ledger = Trace({}), Ledger()
    tap = EntryTap(trace)
    batch = X.clone()
    tap.begin([batch], ledger, columns=True)
    with FunctionTap(trace, [tap], fail) as functions:
        functions.listening = True
        compute(batch, lambda out: trace.note(out, Origin("module")) or out)
        functions.listening = False
    tap.end()
    ledger.send()
    ledger.settle()
    return tap.data_entries()


def frozen(module):
    return module.requires_grad_(False)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x, module: HEAD(x), id="as they are"),
        pytest.param(lambda x, module: HEAD(x.view(16, 2, 4).flatten(1)), id="reshaped"),
        pytest.param(lambda x, module: HEAD(module(x.flatten(1))), id="by a module"),
        pytest.param(lambda x, module: HEAD(module(x)), id="the same, by a module"),
        pytest.param(lambda x, module: HEAD(module(module(x) * 1.0)), id="by two modules"),
    ],
)
def test_data(compute):
    (entry,) = entries(compute)
    assert entry.derived
    assert [column.mean for column in entry.columns] == pytest.approx(X.mean(0).tolist())


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x, module: HEAD(module(frozen(nn.Linear(8, 8))(x))), id="frozen layer"),
        pytest.param(lambda x, module: HEAD(frozen(nn.Linear(8, 8))(x).relu()), id="outside"),
        pytest.param(
            lambda x, module: HEAD(module(frozen(nn.LSTM(8, 8))(x)[0] + x)), id="frozen LSTM"
        ),
        pytest.param(
            lambda x, module: HEAD(module(x * nn.Parameter(torch.ones(8)).detach())),
            id="weights without gradient",
        ),
        pytest.param(
            lambda x, module: HEAD(module(torch.from_numpy(x.numpy() + 1.0))),
            id="on a way that cannot be followed",
        ),
    ],
)
def test_what_weights_made(compute):
    assert entries(compute) == ()
