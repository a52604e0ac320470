"""Trials of learning rates and answers to steps, written by hand."""

from lightning_debug.observation import RateArm, RateTrial, StepResponse


def trial(ends, *, start=2.3, lr=1.0, ratio=0.5, **changes):
    """The end of each arm by its factor; the run has got nowhere."""
    arms = tuple(
        RateArm(factor=factor, losses=(start,) * 20, end=end)
        for factor, end in sorted(ends.items())
    )
    settings = {"step": 50, "optimizer": "SGD", "typical": ratio, "run": (2.3, 2.4)} | changes
    return RateTrial(lr=lr, ratio=ratio, start=start, arms=arms, **settings)


def answer(end, start=-1.0):
    return StepResponse(optimizer="Adam", start=start, end=end)
