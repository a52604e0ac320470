"""The references of a loss on a large prediction, which some of its samples give."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_debug import LossFunction
from lightning_debug.observation import LossCalls
from lightning_debug.session import Session
from lightning_debug.taps import loss_calls
from tests.runs import Program, quiet_trainer

N, CLASSES = 1024, 6


def classes(**options):
    return partial(F.cross_entropy, **options), torch.randint(0, CLASSES, (N,))


def first_call(monkeypatch, loss, targets):
    seen = []
    original = Session.observe
    with monkeypatch.context() as patch:
        patch.setattr(Session, "observe", lambda s, o: (seen.append(o), original(s, o)))
        torch.manual_seed(0)
        program = Program(nn.Linear(5, CLASSES), loss=loss)
        data = DataLoader(TensorDataset(torch.randn(N, 5), targets), batch_size=N)
        suite = LossFunction(preflight=False, sinks=[])
        quiet_trainer(max_epochs=1, callbacks=[suite]).fit(program, data)
        assert not suite.failures
    return next(obs for obs in seen if isinstance(obs, LossCalls)).calls[0]


@pytest.mark.parametrize(
    ("make", "rel"),
    [
        pytest.param(classes, 0.05, id="classes"),
        pytest.param(partial(classes, reduction="sum"), 0.05, id="summed"),
        pytest.param(partial(classes, label_smoothing=0.1), 0.05, id="smoothed"),
        pytest.param(partial(classes, weight=torch.arange(1.0, 7.0)), 0.05, id="weighted"),
        pytest.param(lambda: (F.mse_loss, torch.randn(N, CLASSES)), 0.2, id="regression"),
        pytest.param(
            lambda: (F.binary_cross_entropy_with_logits, torch.rand(N, CLASSES).round()),
            0.05,
            id="binary",
        ),
        pytest.param(
            lambda: (
                partial(F.binary_cross_entropy_with_logits, weight=torch.rand(N, CLASSES)),
                torch.rand(N, CLASSES).round(),
            ),
            1e-6,
            id="a weight for each, so all of them",
        ),
    ],
)
def test_some_samples_give_the_references_of_all(make, rel, monkeypatch):
    torch.manual_seed(1)
    loss, targets = make()
    whole = first_call(monkeypatch, loss, targets)
    monkeypatch.setattr(loss_calls, "MOST_REPEATED", 1500)
    some = first_call(monkeypatch, loss, targets)
    assert some.references.keys() == whole.references.keys()
    assert whole.references
    for name, value in whole.references.items():
        assert some.references[name] == pytest.approx(value, rel=rel)
    assert some.value == whole.value


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        ((1024, 1000), (1024,), 2),
        ((8192, 50_000), (8192,), 32),  # some of them are enough for a mean
        ((300, 100_000), (300,), 1),
        ((64, 3, 256, 256), (64, 3, 256, 256), 1),
        ((4096, 10), (4096,), 1),
        ((4_000_000,), (4_000_000,), 4),
        ((4096, 1000), (), 1),
        ((), (), 1),
    ],
)
def test_of_large_predictions_each_so_manyth(prediction, target, expected):
    sides = (torch.empty(shape, device="meta") for shape in (prediction, target))
    assert loss_calls._every(*sides) == expected


def test_tells_the_weights_of_classes(monkeypatch):
    loss, targets = classes(weight=torch.arange(1.0, 7.0))
    assert first_call(monkeypatch, loss, targets).counts.weights == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert first_call(monkeypatch, F.cross_entropy, targets).counts.weights == ()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("binary_cross_entropy_with_logits", {"pos_weight": torch.tensor(9.0)}, [1.0, 9.0]),
        ("binary_cross_entropy_with_logits", {"pos_weight": torch.ones(3)}, None),
        ("binary_cross_entropy_with_logits", {"weight": torch.ones(2)}, None),
        ("mse_loss", {"weight": torch.ones(2)}, None),
    ],
)
def test_weights_that_are_not_of_classes(name, options, expected):
    weights = loss_calls._class_weights(name, options)
    assert (None if weights is None else weights.tolist()) == expected
