"""Steps that do not repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import StepRepeat

SOURCES = {
    "entropy": "random numbers that no seed reaches",
    "clock": "the time",
    "memory": "memory that nothing has been written to",
    "identity": "hashes or addresses of objects, which are others in each process",
}
FIXES = {
    "entropy": (
        "Draw from torch's generator (torch.randn_like(x), torch.rand(n)), which"
        " pl.seed_everything(seed, workers=True) seeds and checkpoints keep; or make one generator"
        " in __init__: self.rng = np.random.default_rng(seed)."
    ),
    "clock": (
        "Leave the clock out of the loss: seed once with pl.seed_everything(seed, workers=True),"
        " and count by self.global_step or self.current_epoch instead of seconds."
    ),
    "memory": (
        "Write to all of it before it is read: torch.zeros(...) in place of torch.empty(...), or"
        " an initialiser, nn.init.normal_(x)."
    ),
    "identity": (
        "Use a number that stays: zlib.crc32(text.encode()) in place of hash(text), and a counter"
        " in place of id(x)."
    ),
}


@dataclass(kw_only=True)
class NondeterministicStep(Check):
    """The same training step, from the same weights, batch and seed, gives another loss.

    Why: no run can be repeated, so no bug can be chased and no change compared with what was
    before; and where memory is read that was never written to, the result is plainly wrong.

    Silent when: what differs follows from a state that the step keeps (a memory bank, a counter,
    a second loader); generators belong to the module, or are seeded. It is no more than an info
    where only the order of summation differs, or where a device's kernels do not repeat.
    """

    fix = (
        "Set Trainer(deterministic=True), which takes kernels that repeat or says which operation"
        " has none; for all else, pl.seed_everything(seed, workers=True)."
    )

    def on_step_repeat(self, obs: StepRepeat) -> Iterator[Finding]:
        """Tell two runs of a step apart."""
        if not obs.losses:
            return
        known = obs.source in SOURCES
        yield self.finding(
            obs,
            f"{_difference(obs)} {_reason(obs)}",
            where=obs.place,
            severity=Severity.WARNING if known and not obs.rounding else Severity.INFO,
            fix=FIXES.get(obs.source, ""),
            change=obs.change,
            gradient=obs.gradient,
            source=obs.source,
            line=obs.line,
        )


def _difference(obs: StepRepeat) -> str:
    text = "From the same weights, batch and seed, the training step gives"
    first, second = obs.losses
    if f"{first:.4g}" != f"{second:.4g}":
        return f"{text} a loss of {first:.4g} and then one of {second:.4g}."
    if obs.change:
        return f"{text} losses that are {obs.change:.1e} of their size apart."
    return f"{text} gradients that are {obs.gradient:.1e} of their size apart."


def _reason(obs: StepRepeat) -> str:
    if obs.source in SOURCES:
        return f"It depends on {SOURCES[obs.source]}: {obs.code} ({obs.line})."
    if obs.rounding:
        return "No more than another order of summation would do."
    return f"Some kernels of {obs.device} sum up in another order each time."
