import math
from collections import Counter

import pytest
import torch
from torch import nn

from lightning_debug.picture import Histogram
from lightning_debug.taps.histograms import BINS, ELEMENTS, HistogramTap, counted, following
from lightning_debug.taps.transfer import Ledger
from lightning_debug.taps.wiring import Wiring
from tests.drawn import drawn
from tests.runs import Program, digits


def histograms(module, *, steps=1, **settings):
    pictures = drawn(module, digits(n=256), steps=steps, **settings)
    return [p for p in pictures if isinstance(p, Histogram)]


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def test_values_are_counted():
    row = torch.linspace(-1.0, 2.0, 301)
    low, high, *counts = counted(torch.stack([row, row * 0 + 5.0]))[0].tolist()
    assert (low, high) == (-1.0, 2.0)
    assert sum(counts) == 301
    assert all(abs(count - 10) <= 1 for count in counts)


def test_values_that_are_not_finite_are_left_out():
    row = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1.0])
    low, high, *counts = counted(row[None])[0].tolist()
    assert (low, high) == (0.0, 1.0)
    assert sum(counts) == 2
    assert counts[0] == counts[-1] == 1


def test_a_range_too_large_for_a_number():
    low, high, *counts = counted(torch.tensor([[-3e38, 0.0, 3e38]]))[0].tolist()
    assert (low, high) == pytest.approx((-3e38, 3e38))
    assert [counts[0], counts[BINS // 2], counts[-1]] == [1, 1, 1]


def test_when_it_is_drawn():
    step, steps = 0, [0]
    while step < 10_000:
        step = following(step)
        steps.append(step)
    assert steps == [0, 1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]
    assert [following(n) for n in (4, 10, 11, 99, 123_456)] == [10, 20, 20, 100, 200_000]


def test_what_is_drawn_in_a_run():
    found = histograms(lambda: Program(mlp()), steps=14)
    weights = ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    of_a_look = Counter({(kind, name): 1 for kind in ("weights", "gradients") for name in weights})
    of_a_look.update(("activations", place) for place in ("net.0", "net.1", "net.2"))
    looks = {
        step: Counter((h.kind, h.place) for h in found if h.step == step) for step in range(20)
    }
    assert {step for step, drawn in looks.items() if drawn} == {0, 1, 11, 14}
    assert looks[0] == looks[1] == looks[11] == of_a_look
    assert set(looks[14]) == {("weights", name) for name in weights}


def test_the_numbers_are_those_of_the_run():
    torch.manual_seed(0)
    model = Program(mlp())
    weight = model.net[2].weight.detach().clone()
    found = histograms(lambda: model)
    [shown] = [h for h in found if (h.kind, h.place, h.step) == ("weights", "net.2.weight", 0)]
    assert (shown.low, shown.high) == (weight.min().item(), weight.max().item())
    expected = torch.histc(weight, BINS, shown.low, shown.high).tolist()
    assert sum(shown.counts) == 320
    assert sum(abs(a - b) for a, b in zip(shown.counts, expected, strict=True)) <= 2
    [relu] = [h for h in found if (h.kind, h.place) == ("activations", "net.1")]
    assert relu.low == 0.0
    assert sum(relu.counts) == 32 * 32


def test_gradients_are_those_of_the_optimizer():
    clipped = histograms(lambda: Program(mlp()), gradient_clip_val=1e-6)
    assert all(abs(h.low) < 1e-5 for h in clipped if h.kind == "gradients")
    assert any(h.kind == "gradients" for h in clipped)


def test_values_that_are_all_one_stand_in_the_middle():
    model = Program(mlp())
    nn.init.constant_(model.net[0].bias, -2.0)
    [bias, _] = [
        h for h in histograms(lambda: model) if (h.kind, h.place) == ("weights", "net.0.bias")
    ]
    assert (bias.low, bias.high) == (-3.0, -1.0)
    assert bias.counts[BINS // 2] == 32
    assert sum(bias.counts) == 32


def test_large_tensors_are_sampled_and_few_are_taken():
    net = nn.Sequential(*(nn.Linear(128, 128) for _ in range(100)))
    tap = HistogramTap(Wiring(net, []), net)
    ledger = Ledger()
    tap.begin(ledger, None, 0)
    tap.end()
    ledger.send()
    ledger.settle()
    found = list(tap.pictures(0))
    assert len(found) == 64
    assert {h.place.rpartition(".")[2] for h in found} == {"weight"}
    assert (found[0].place, found[-1].place) == ("0.weight", "99.weight")
    assert all(ELEMENTS / 2 < sum(h.counts) <= ELEMENTS for h in found)
    assert list(tap.pictures(0)) == []


def test_weights_that_are_not_finite_are_not_drawn():
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, math.nan)
    tap = HistogramTap(Wiring(net, []), net)
    ledger = Ledger()
    tap.begin(ledger, None, 0)
    tap.end()
    ledger.send()
    ledger.settle()
    assert [h.place for h in tap.pictures(0)] == ["bias"]
