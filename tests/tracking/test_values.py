"""Any value as plain data of bounded size."""

import json
from argparse import Namespace
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_debug.tracking.values import fitting, flat, safe


class Colour(Enum):
    RED = 1


@dataclass
class Settings:
    lr: float
    password: str


class Hostile(dict):
    def items(self):
        raise RuntimeError("no")


class Loud:
    def __repr__(self):
        raise AssertionError("asked")

    __str__ = __len__ = __iter__ = __bool__ = __repr__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        (float("nan"), "nan"),
        ("text", "text"),
        (Colour.RED, "Colour.RED"),
        (Path("a/b"), "a/b"),
        (torch.float16, "torch.float16"),
        (torch.device("cpu"), "cpu"),
        (torch.zeros(2, 3), "Tensor of shape (2, 3), torch.float32"),
        (np.float32(0.5), 0.5),
        (np.zeros(3), "ndarray of shape (3,), float64"),
        (torch.nn.ReLU, "torch.nn.modules.activation.ReLU"),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (partial(torch.optim.Adam, lr=1), "partial(torch.optim.adam.Adam)"),
        ((1, (2, 3)), [1, [2, 3]]),
        (Settings(0.1, "hunter2"), {"lr": 0.1, "password": "(left out)"}),
        (Namespace(lr=0.1), {"lr": 0.1}),
        (b"bytes", "builtins.bytes"),
        (Hostile(a=1), "(Hostile: could not be read)"),
        (Loud(), f"{__name__}.Loud"),
        ({1: 2}, {"1": 2}),
        (10**400, "(a number of 1329 bits)"),
    ],
)
def test_plain(value, plain):
    assert safe(value) == plain


def test_everything_is_bounded():
    deep = []
    for _ in range(100):
        deep = [deep]
    value = {"text": "x" * 10_000_000, "many": list(range(1000)), "deep": deep, "k" * 999: 1}
    value["names"] = {str(i): i for i in range(1000)}
    found = safe(value)
    assert found["text"] == "x" * 2000 + " ... (cut)"
    assert len(found["many"]) == 201
    assert found["many"][-1] == "... and 800 more"
    assert found["names"]["..."] == "and 800 more"
    assert len(json.dumps(found["deep"])) < 40
    assert max(map(len, found)) == 200


def test_a_secret_across_the_cut_is_left_out():
    assert "hf_abc" not in safe("x" * 1990 + " hf_abcdefghijklmnopqrstuvwxyz")


def test_a_loop_ends():
    value = {}
    value["itself"] = value
    assert json.dumps(safe(value)).count("itself") == 6


def test_a_record_that_is_too_large_loses_its_largest_entries():
    part = {"small": 1, "large": ["x" * 1000] * 100, "larger": ["x" * 1000] * 150}
    found = fitting(part, most=150_000)
    assert found["larger"] == "(left out: 150600 characters)"
    assert found["large"] == part["large"]


def test_flat():
    value = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}]}
    assert dict(flat(value)) == {"a.b": 1, "a.c": [1, 2], "d.0.e": None}
