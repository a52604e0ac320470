"""Builders of what the tests show to sinks and checks."""

from lightning_debug.finding import Finding, Severity


def finding(**changes):
    """Return a warning at one place, with the changes."""
    fields = {
        "name": "dead-relu",
        "severity": Severity.WARNING,
        "where": "encoder.0",
        "message": "91 % of the units are zero for all 1024 samples.",
        "fix": "Lower the learning rate.",
        "step": 12,
        "epoch": 1,
    }
    return Finding(**{**fields, **changes})
