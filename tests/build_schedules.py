"""Builders of what schedulers make of learning rates; the tests change what they are about."""

import math

from lightning_debug.observation import RateState, Schedules, ScheduleState

UPDATES, EPOCHS = 400, 10


def cosine(length, calls=2000):
    """Return a cosine that goes up and down."""
    return tuple(0.5 + 0.5 * math.cos(math.pi * n / length) for n in range(calls))


def linear(length, calls=2000):
    """Return a fall to 0 that stays there."""
    return tuple(max(0.0, 1.0 - n / length) for n in range(calls))


def exponential(gamma, calls=2000):
    """Return a geometric decay."""
    return tuple(gamma**n for n in range(calls))


def steps(size, gamma=0.1, calls=2000):
    """Return a decay in steps."""
    return tuple(gamma ** (n // size) for n in range(calls))


def milestones(*at, gamma=0.1, calls=2000):
    """Return a decay at a few points."""
    return tuple(gamma ** sum(n >= point for point in at) for n in range(calls))


def warm(length, calls=2000):
    """Return a warm-up to a constant rate."""
    return tuple(min(1.0, (n + 1) / length) for n in range(calls))


def warm_cosine(up, length, calls=2000):
    """Return a warm-up followed by a cosine."""
    return (*(n / up for n in range(up)), *cosine(length - up, calls - up))


def cycles(size, calls=2000):
    """Return a triangular cycle that starts low."""
    return tuple(abs((n + size) % (2 * size) - size) / size for n in range(calls))


def restarts(size, calls=2000):
    """Return a cosine that jumps back to its peak."""
    return tuple(0.5 + 0.5 * math.cos(math.pi * (n % size) / size) for n in range(calls))


def state(rates=(), interval="step", **changes):
    """Return a scheduler in a run of 400 updates and 10 epochs, with the changes."""
    calls = changes.pop("calls", UPDATES if interval == "step" else EPOCHS)
    fields = {"label": "CosineAnnealingLR", "kind": "CosineAnnealingLR", "optimizer": "Adam"}
    fields |= {"calls": calls, "planned": calls, "by_step": UPDATES, "by_epoch": EPOCHS}
    return ScheduleState(rates=rates, interval=interval, **fields | changes)


def schedules(*states, **changes):
    """Return the schedules of a run of 400 updates and 10 epochs, with the changes."""
    fields = {"updates": UPDATES, "epochs": EPOCHS, "batches": UPDATES // EPOCHS}
    fields["optimizers"] = (RateState(optimizer="Adam", scheduled=bool(states)),)
    return Schedules(schedules=states, **fields | changes)
