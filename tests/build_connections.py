"""Builders of what the checks of connections are shown."""

from lightning_debug.observation import Connections, GradientUse, Stranger, Tie


def strangers(*changes, **fields):
    """Return a look at as many unregistered parameters, with the changes."""
    place = {"where": "net.layers[1].weight", "place": "net", "line": "model.py:41"}
    found = tuple(Stranger(**{**place, **change}) for change in changes)
    return Connections(strangers=found, step=3, **fields)


def uses(*changes, **fields):
    """Return a look at as many steps of optimizers, with the changes."""
    found = tuple(GradientUse(**{"optimizer": "SGD", **change}) for change in changes)
    return Connections(uses=found, **fields)


def ties(*changes, **fields):
    """Return a look at as many pairs of parameters, with the changes."""
    pair = {"first": "table.weight", "second": "head.weight"}
    return Connections(ties=tuple(Tie(**{**pair, **change}) for change in changes), **fields)
