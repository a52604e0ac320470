"""Builders of what checks of optimizers and number formats are shown."""

from lightning_debug.observation import (
    FlushedGradient,
    GroupPlan,
    NarrowParameter,
    OptimizerPlan,
    Plan,
    Precision,
)


def plan(kind="Adam", decay="", automatic=True, count=1, **settings):
    """Return the plan of a run with as many optimizers of one group each."""
    group = GroupPlan(settings={"lr": 1e-3, "weight_decay": 0.0} | settings, decay=decay)
    optimizer = OptimizerPlan(label=kind, kind=kind, groups=(group,))
    return Plan(automatic=automatic, optimizers=(optimizer,) * count)


def narrow(*names, **changes):
    """Return a step in bfloat16 that was too small for every element of these parameters."""
    fields = {"driven": 512, "lost": 512, "expected": 5.0, "step": 1e-5, "spacing": 4e-4}
    one = NarrowParameter(**fields | {"lr": 1e-5} | changes)
    return Precision(optimizer="AdamW", parameters=dict.fromkeys(names or ("net.weight",), one))


def flushed(**gradients):
    """Return gradients of a copy, by name of the parameter: their errors."""
    found = {n: FlushedGradient(error=e, zeros=0.5 * e) for n, e in gradients.items()}
    return Precision(flushed=found, factor=65536.0)


def scaled(*scales):
    """Return as many looks at a gradient scaler."""
    return [Precision(scale=scale) for scale in scales]
