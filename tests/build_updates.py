"""Builders of what the checks of gradients and updates are shown."""

from lightning_debug.observation import (
    Backward,
    BackwardCall,
    Gradients,
    Losses,
    ParameterGradient,
    ParameterUpdate,
    Updates,
)


def gradients(parameters, **changes):
    """Return the gradients of one optimizer: by name, the changes to a healthy one."""
    fields = {"optimizer": "Adam", "loss": 1.0, "step": 7, "epoch": 1}
    held = {name: ParameterGradient(**change) for name, change in parameters.items()}
    return Gradients(parameters=held, **{**fields, **changes})


def layers(values, **changes):
    """Return gradients of as many weight matrices, with these gradients over weight (rms)."""
    names = [f"net.{i}.weight" for i in range(len(values))]
    return gradients(
        {
            name: {"order": i, "rms": value, "norm": value, "largest": value}
            for i, (name, value) in enumerate(zip(names, values, strict=True))
        },
        **changes,
    )


def updates(parameters, **changes):
    """Return one step of an optimizer: by name, the changes to a healthy update."""
    fields = {"optimizer": "Adam", "step": 7, "epoch": 1}
    held = {name: ParameterUpdate(**change) for name, change in parameters.items()}
    return Updates(parameters=held, **{**fields, **changes})


def ratios(*values, lr=1e-3, **changes):
    """Return updates of as many weight matrices of size 1, each changed by this much."""
    return updates(
        {f"net.{i}.weight": {"update_rms": v, "lr": lr} for i, v in enumerate(values)}, **changes
    )


def losses(*values, **changes):
    """Return the losses of as many steps."""
    return Losses(values=tuple(enumerate(values)), **changes)


def backward(*calls, **changes):
    """Return a backward pass: ``(place, incoming finite, outgoing finite)``, last module first."""
    passed = tuple(
        BackwardCall(place=place, incoming_finite=incoming, outgoing_finite=outgoing)
        for place, incoming, outgoing in calls
    )
    return Backward(calls=passed, **{"broken": ("net.0.weight",), **changes})


def told(check, *observations):
    """Show the observations in turn; return the findings of the last."""
    found = []
    for obs in observations:
        found = list(getattr(check, hook_of(obs))(obs))
    return found


def hook_of(obs):
    """Return the name of the method that answers to an observation."""
    from lightning_debug.observation import hook

    return hook(type(obs))
