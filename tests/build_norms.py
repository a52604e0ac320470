"""Builders of what batch norms and dropouts did; the tests change what they are about."""

from lightning_debug.observation import (
    BatchNormCall,
    BatchNorms,
    DropoutCall,
    Dropouts,
    LostProbability,
    NormedBias,
    Plan,
)


def norms(step=20, stage="training", **changes):
    """Return a look at one healthy batch norm, with the changes."""
    call = BatchNormCall(**{"place": "net.1", "training": stage == "training"} | changes)
    return BatchNorms(step=step, stage=stage, calls=(call,))


def biased(**changes):
    """Return a look at a bias that a norm takes away, with the changes."""
    fields = {"place": "net.0", "norm": "net.1", "share": 1e-8}
    return BatchNorms(biases=(NormedBias(**fields | changes),))


def dropped(stage="training", **changes):
    """Return a look at one healthy dropout, with the changes."""
    fields = {"place": "net.2", "line": "model.py:41"}
    return Dropouts(stage=stage, calls=(DropoutCall(**fields | changes),))


def lost(**changes):
    """Return a look at a probability that validation has set to 0, with the changes."""
    return Dropouts(lost=(LostProbability(**{"place": "net.2"} | changes),))


def judged(check, *observations, plan=None):
    """Return what a check says of observations, one after another."""
    list(check.on_plan(plan or Plan()))
    methods = {BatchNorms: "on_batch_norms", Dropouts: "on_dropouts"}
    return [f for obs in observations for f in getattr(check, methods[type(obs)])(obs)]
