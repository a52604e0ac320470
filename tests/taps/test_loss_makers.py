import pytest
import torch
from torch.nn import functional as F

from lightning_debug.taps.loss_makers import Maker, maker


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (leaf(4, 3).sigmoid(), "sigmoid"),
        (leaf(4, 1).sigmoid().squeeze(1).view(2, 2).half(), "sigmoid"),
        (1 / (1 + torch.exp(-leaf(4))), "sigmoid"),
        (torch.cat([leaf(4).sigmoid(), leaf(4).sigmoid()]), "sigmoid"),
        (leaf(4, 3).softmax(1)[:, 1].clamp(1e-6, 1.0), "softmax"),
        (F.relu(leaf(4, 3)).permute(1, 0), "relu"),
        (leaf(4).tanh(), "tanh"),
        (leaf(4).log_softmax(0), "log_softmax"),
        (2.0 * leaf(4).sigmoid(), ""),
        (2.0 / (1 + torch.exp(-leaf(4))), ""),
        (leaf(4).sigmoid() - 0.5, ""),
        (torch.cat([leaf(4).sigmoid(), leaf(4).tanh()]), ""),
        (F.linear(leaf(4, 3), leaf(2, 3)), ""),
        (leaf(4), ""),
        (torch.randn(4), ""),
    ],
)
def test_name(tensor, name):
    assert maker(tensor).name == name


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_knows_its_units(axis):
    assert maker(leaf(4, 3).softmax(axis).flatten()) == Maker("softmax", 3, True)
    assert maker(leaf(4, 1).softmax(axis)) == Maker("softmax", 1, True)
    assert maker(leaf(4, 3).softmax(axis)[:, :2]) == Maker("softmax", 3, False)
