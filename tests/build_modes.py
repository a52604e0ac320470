"""Builders of the modes in which modules ran."""

from lightning_debug.observation import ModePart, Modes


def training(**changes):
    """Return a training step in which one part ran in eval mode, with the changes."""
    fields = {"place": "net", "kind": "Sequential", "dropouts": ("net.2",)}
    return Modes(stage="training", parts=(ModePart(**fields | changes),))


def validation(**changes):
    """Return a validation in which one part ran in train mode, with the changes."""
    fields = {"place": "net", "kind": "Sequential", "dropouts": ("net.2",)}
    return Modes(stage="validation", parts=(ModePart(**fields | changes),))
