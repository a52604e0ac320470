"""How the cost of a look, and of a step without one, grows with what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.bench import timing, workloads
from tests.bench.workloads import WORKLOADS, Workload

LAYERS = (10, 30, 100, 300, 1000, 5000)
WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (16, 64, 256, 1024)
MADE = (10, 100, 1000, 4000)
STEPS = 2
WIDE = 40


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of the power law that fits best: 1 is linear."""
    both = zip(sizes, costs, strict=True)
    points = [(math.log(size), math.log(max(cost, 1e-9))) for size, cost in both]
    means = [sum(values) / len(points) for values in zip(*points, strict=True)]
    over = sum((x - means[0]) * (y - means[1]) for x, y in points)
    return over / sum((x - means[0]) ** 2 for x, _ in points)


def by_layers(size: int) -> Workload:
    """Return a network of so many blocks."""
    return lambda: workloads.deep(size, 16), lambda: workloads.images(16, batch=32), STEPS


def by_parameters(size: int) -> Workload:
    """Return two layers of a width."""
    return lambda: workloads.deep(2, size), lambda: workloads.images(size, batch=32), STEPS


def by_batch(size: int) -> Workload:
    """Return a network that takes so many samples at once."""
    return workloads.mlp, lambda: workloads.images(784, batch=size), STEPS


GROWTH: dict[str, tuple[Callable[[int], Workload], Sequence[int]]] = {
    "layers": (by_layers, LAYERS),
    "width": (by_parameters, WIDTHS),
    "batch": (by_batch, BATCHES),
}


def chart(sizes: Sequence[float], costs: Sequence[float]) -> list[str]:
    """Return a line for each size: a bar of a length that grows with the logarithm of the cost."""
    logs = [math.log(max(cost, 1e-9)) for cost in costs]
    low, high = min(logs) - 1.0, max(logs)
    bars = ["#" * round(WIDE * (value - low) / (high - low)) for value in logs]
    rows = zip(sizes, costs, bars, strict=True)
    return [f"{size:>8} {cost:>10.2f} ms {bar}" for size, cost, bar in rows]


def by_steps() -> list[str]:
    """Return what a whole look at the small network costs after so many of them."""
    costs = []
    for made in MADE:
        ratio = timing.compare("mlp", "whole looks", pairs=5, steps=20, warm=made)
        costs.append(ratio.bare * (ratio.median - 1))
    end = f"grows with the power {slope(MADE, costs):.2f}"
    return ["a look, by steps made:", *chart(MADE, costs), end]


def by_size(name: str) -> list[str]:
    """Return what a look, a glance and a step without either cost, at each size."""
    build, sizes = GROWTH[name]
    lines = []
    for what, arm, warm in (
        ("a look", "whole looks", 2),
        ("a glance", "every step", timing.SETTLED),
        ("a step without either", "between looks", timing.SETTLED),
    ):
        costs = []
        for size in sizes:
            WORKLOADS["growing"] = build(size)
            ratio = timing.compare("growing", arm, pairs=3, steps=STEPS, warm=warm)
            costs.append(ratio.bare * (ratio.median - 1))
        lines += [f"{what}, by {name}:", *chart(sizes, costs)]
        lines.append(f"grows with the power {slope(sizes, costs):.2f}")
    return lines


def table(names: Sequence[str]) -> list[str]:
    """Measure how the cost grows with what is asked for: layers, width, batch or steps."""
    return [line for name in names for line in (by_size(name) if name in GROWTH else by_steps())]
