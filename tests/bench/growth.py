"""How the cost of a look, and of a step without one, grows with what is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.bench import timing, workloads
from tests.bench.workloads import WORKLOADS, Workload

LAYERS = (10, 30, 100, 300, 1000, 5000)
WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (16, 64, 256, 1024)
STEPS = 2


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


def table() -> list[str]:
    """Measure everything; return a line for each size, and the slopes."""
    lines = []
    for name, (build, sizes) in GROWTH.items():
        looks, quiet = [], []
        for size in sizes:
            WORKLOADS["growing"] = build(size)
            found = [
                timing.compare("growing", arm, pairs=3, steps=STEPS, warm=warm)
                for arm, warm in (("every step", 2), ("between looks", timing.SETTLED))
            ]
            added = [ratio.bare * (ratio.median - 1) for ratio in found]
            looks.append(added[0])
            quiet.append(added[1])
            lines.append(
                f"{name} {size}: a look {added[0]:.1f} ms, a step without {added[1]:.2f} ms"
            )
        lines.append(f"{name}: a look grows with the power {slope(sizes, looks):.2f}")
    return lines
