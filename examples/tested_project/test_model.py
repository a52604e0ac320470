"""Unit tests of a model: they fail as soon as somebody plants a training bug in it.

Run them with ``pytest examples/tested_project``. The fixture ``assert_trains`` comes with the
package; without pytest it is ``lightning_debug.testing.assert_trains``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from model import Classifier, Digits


def test_it_trains(assert_trains) -> None:
    """The model and its data, as they are."""
    assert_trains(Classifier(), datamodule=Digits())


def test_it_trains_whatever_its_width(assert_trains) -> None:
    """The model with settings of its own."""
    assert_trains(Classifier(hidden=256), datamodule=Digits())


class WithSoftmax(Classifier):
    """What a colleague might commit: the loss applies a softmax of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net.append(nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.net(x)
        return probabilities


def test_a_planted_bug_is_caught(assert_trains) -> None:
    """What the failure says names the bug."""
    with pytest.raises(AssertionError, match="probabilities-as-logits"):
        assert_trains(WithSoftmax(), datamodule=Digits())
