"""Copies of what a step takes and gives, in structures of any class."""

from collections import OrderedDict, UserDict

import pytest
import torch

from lightning_debug.experiments.batches import duplicate


class Output(OrderedDict):
    """A result that may be changed by item only, as those of transformers."""

    def update(self, *args, **kwargs):
        raise RuntimeError("use items")


@pytest.mark.parametrize("kind", [Output, OrderedDict, UserDict, dict])
def test_mappings_keep_their_class(kind):
    value = kind()
    value["loss"], value["hidden"] = torch.zeros(()), (torch.ones(2), "kept")
    twin = duplicate(value)
    assert type(twin) is kind
    assert twin["hidden"][1] == "kept"
    assert torch.equal(twin["hidden"][0], torch.ones(2))
    assert twin["hidden"][0] is not value["hidden"][0]
