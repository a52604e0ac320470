"""Builders of what experiments on a copy have shown."""

from lightning_debug.observation import (
    BatchMixing,
    FunctionGradient,
    FutureLeak,
    GradientCheck,
    IgnoredInput,
    InputUse,
    Leak,
    MixedOutput,
    PaddingUse,
    ReadPadding,
)


def mixing(*places, **changes):
    """Return six samples, of which others changed in the outputs of linear layers."""
    outputs = tuple(MixedOutput(place=place, kind="Linear") for place in places)
    return BatchMixing(samples=6, outputs=outputs, **changes)


def leak(kind="future", **changes):
    """Return a leak of the token after the next in attention, with the changes."""
    fields = {"source": "batch[0]", "shift": 1, "position": 4, "length": 19}
    fields |= {"place": "block.attention", "module": "Attention", "function": "cross_entropy"}
    return FutureLeak(leaks=(Leak(kind=kind, **fields | changes),))


def reading(**changes):
    """Return attention that reads eleven positions of padding, with the changes."""
    output = ReadPadding(place="block", kind="Attention", **{"change": 0.5} | changes)
    return PaddingUse(source="batch[0]", length=16, longest=5, outputs=(output,))


def unused(source="context", **changes):
    """Return an input that changed nothing, with the changes."""
    return InputUse(ignored=(IgnoredInput(source=source, **changes),))


def gradient(name="loss", **changes):
    """Return a derivative that agrees with finite differences, with the changes."""
    return FunctionGradient(name=name, **{"error": 1e-9, "numeric": 0.5, "analytic": 0.5} | changes)


def gradient_check(*functions, whole=None):
    """Return a gradient check whose loss is right."""
    return GradientCheck(whole=whole or gradient(), functions=functions)
