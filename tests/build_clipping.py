"""Builders of what the checks of clipping and batch sizes are shown."""

from lightning_debug.observation import Clipping, Losses, Plan

STEPS = (*range(10), 11, 13, 16, 20, 25, 31, 38, 47, 58, 72, 90)


def clippings(before=10.0, after=0.01, *, looks=len(STEPS), **changes):
    """Return looks at an optimizer whose gradients differ a little from one to the next."""
    fields = {"optimizer": "SGD", "lr": 0.1, "pull": 0.1, "ratio": 1e-5}
    return [
        Clipping(
            step=step,
            before=before * (1.0 + 0.1 * (i % 4)) if before != after else before,
            after=after,
            **{**fields, **changes},
        )
        for i, step in enumerate(STEPS[:looks])
    ]


def curve(*values):
    """Return the losses of as many steps."""
    return Losses(values=tuple(enumerate(values)))


def clipped_by_trainer(value=0.01, **changes):
    """Return the plan of a run with clipping."""
    return Plan(clip_value=value, updates=1000, epochs=10, batches=100, **changes)


def told(check, *observations):
    """Show the observations in turn; return the findings of the last."""
    from lightning_debug.observation import hook

    found = []
    for obs in observations:
        found = list(getattr(check, hook(type(obs)))(obs))
    return found
