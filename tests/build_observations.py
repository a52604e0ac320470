"""Builders of observations that a healthy run gives; the tests change what they are about."""

from lightning_debug.observation import (
    Activations,
    ClassCounts,
    Gradients,
    LossCall,
    LossCalls,
    ModuleCall,
    NonlinearCall,
    ParameterGradient,
    ParameterStart,
    RunStart,
)


def module(place="net.0", **changes):
    """Return a linear layer that ran, with the changes."""
    fields = {"kind": "Linear", "parametric": True, "rms": 1.0, "input_rms": 1.0}
    fields |= {"spread": 0.5, "input_spread": 0.5}
    return ModuleCall(place=place, **fields | changes)


def nonlinear(place="net.1", kind="relu", **changes):
    """Return a rectifier that was watched for 8 looks of 32 samples, with the changes."""
    return NonlinearCall(
        place=place, kind=kind, **{"units": 64, "dead_looks": 8, "dead_samples": 256} | changes
    )


def activations(*calls, **changes):
    """Return a look at modules and non-linearities."""
    return Activations(
        modules=tuple(call for call in calls if isinstance(call, ModuleCall)),
        nonlinear=tuple(call for call in calls if isinstance(call, NonlinearCall)),
        **changes,
    )


def loss_calls(step=0, resumed=False, whole=None, **changes):
    """Return one cross entropy over ten classes at chance, with the changes."""
    fields = {"function": "cross_entropy", "value": 2.31, "classes": 10, "prediction_rms": 0.1}
    fields["references"] = {"uniform": 2.3026}
    call = LossCall(**fields | changes)
    return LossCalls(step=step, calls=(call,), whole=whole, resumed=resumed)


def labelled(targets, correct, *, own=0.5, other=0.5, weights=()):
    """Return the counts of the classes of one batch."""
    return ClassCounts(
        targets=tuple(targets),
        correct=tuple(correct),
        own=(own,) * len(targets),
        other=(other,) * len(targets),
        weights=tuple(weights),
    )


def run_start(resumed=False, **parameters):
    """Return the start of a run; parameters by name, with a double underscore for a dot."""
    starts = {}
    for name, changes in parameters.items():
        name = name.replace("__", ".")
        fields = {"shape": (64, 64), "module": name.rpartition(".")[0], "fan_in": 64, "rms": 0.125}
        starts[name] = ParameterStart(**fields | changes)
    return RunStart(parameters=starts, resumed=resumed)


def gradients(optimizer="Adam", **parameters):
    """Return the gradients of an optimizer; names as in :func:`run_start`."""
    return Gradients(
        optimizer=optimizer,
        parameters={
            name.replace("__", "."): ParameterGradient(**changes)
            for name, changes in parameters.items()
        },
    )
