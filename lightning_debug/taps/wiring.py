"""Who owns which parameter, and which optimizer trains it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_debug.observation import GroupPlan, OptimizerPlan, ParameterStart, owner
from lightning_debug.taps.statistics import (
    PARAMETER_SAMPLE,
    dense,
    largest,
    norm,
    sample,
    stride_for,
    wide,
)
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger
from lightning_debug.taps.twins import decay_of

ROUNDING = 1e-6
UNITS = 256


class Wiring:
    """The parameters of a model and the optimizers that hold them.

    Args:
        model: Asked for its parameters and modules, never changed.
        optimizers: Those that the trainer knows; others announce themselves when they step.
        scheduled: Those whose learning rate a scheduler drives.
    """

    def __init__(
        self, model: Module, optimizers: Sequence[Optimizer], scheduled: Iterable[Optimizer] = ()
    ) -> None:
        self._model = model
        self._optimizers = list(optimizers)
        self._scheduled = {id(optimizer) for optimizer in scheduled}
        self.parameters: dict[str, Parameter] = {}
        self._holders: dict[int, tuple[Optimizer, int]] = {}
        self._choosing: set[str] = set()
        self._steps: set[int] = set()
        self._decays: dict[tuple[int, int], str] = {}
        self._held: dict[int, Mapping[str, Parameter]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read modules and parameter groups anew; they may change between two looks."""
        # Lazy ones get their values, and their shape, in the first forward pass.
        named = self._model.named_parameters()
        self.parameters = {name: p for name, p in named if not is_lazy(p)}
        # Of wrappers that share their groups (SAM, Lookahead) the one that was known first wins.
        self._holders = {
            id(parameter): (optimizer, index)
            for optimizer in reversed(self._optimizers)
            for index, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        self._held.clear()

    def paths(self) -> dict[int, str]:
        """Return the path of each module by identity; the model itself has an empty one."""
        return {id(module): path for path, module in self._model.named_modules()}

    def add(self, optimizer: Optimizer) -> bool:
        """Take in an optimizer that the trainer does not know; tell if it trains our parameters."""
        if any(known is optimizer for known in self._optimizers):
            return True
        ours = {id(parameter) for parameter in self.parameters.values()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not (held & ours) - self._holders.keys():
            return False
        self._optimizers.append(optimizer)
        self.refresh()
        return True

    @property
    def has_free(self) -> bool:
        """Tell whether a trainable parameter is held by no optimizer that is known."""
        held = self._holders.keys()
        return any(p.requires_grad and id(p) not in held for p in self.parameters.values())

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Return the optimizers that train the model, as far as they are known."""
        return tuple(self._optimizers)

    def label(self, optimizer: Optimizer) -> str:
        """Return ``"AdamW"``, or ``"AdamW 1"`` where there are several optimizers."""
        name = type(optimizer).__name__
        if len(self._optimizers) == 1:
            return name
        index = next((i for i, o in enumerate(self._optimizers) if o is optimizer), 0)
        return f"{name} {index}"

    def plan(self) -> tuple[OptimizerPlan, ...]:
        """Return the optimizers with their groups and settings, as they are now."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        return tuple(
            OptimizerPlan(
                label=self.label(optimizer),
                kind=type(optimizer).__name__,
                groups=tuple(
                    _planned(index, group, names, self.decay(optimizer, index))
                    for index, group in enumerate(optimizer.param_groups)
                ),
            )
            for optimizer in self._optimizers
        )

    def decay(self, optimizer: Optimizer, index: int) -> str:
        """Return where the weight decay of a group goes; empty where it has none."""
        group = optimizer.param_groups[index]
        weight = group.get("weight_decay")
        if not isinstance(weight, (int, float)) or weight <= 0.0:
            return ""
        key = id(optimizer), index
        if key not in self._decays:
            settings = {name: value for name, value in group.items() if name != "params"}
            self._decays[key] = decay_of(optimizer, settings)
        return self._decays[key]

    def is_scheduled(self, optimizer: Optimizer) -> bool:
        """Tell whether a scheduler drives the learning rate."""
        return id(optimizer) in self._scheduled

    def held_by(self, optimizer: Optimizer) -> Mapping[str, Parameter]:
        """Return the parameters of the model that an optimizer holds."""
        if id(optimizer) not in self._held:
            self._held[id(optimizer)] = {
                name: parameter
                for name, parameter in self.parameters.items()
                if (holder := self._holders.get(id(parameter))) and holder[0] is optimizer
            }
        return self._held[id(optimizer)]

    def group_of(self, parameter: Parameter) -> int:
        """Return the index of the parameter group that holds a parameter; -1 for none."""
        holder = self._holders.get(id(parameter))
        return holder[1] if holder else -1

    def strays(self) -> list[tuple[str, Parameter]]:
        """Return what optimizers hold that is no part of the model, with their labels."""
        ours = {id(parameter) for parameter in self.parameters.values()}
        return [
            (self.label(optimizer), parameter)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) not in ours
        ]

    def steps(self, optimizer: Optimizer) -> None:
        """Note that an optimizer makes a step."""
        self._steps.add(id(optimizer))

    def orphans(self) -> dict[str, Parameter]:
        """Return the trainable parameters that no optimizer has ever looked after."""
        return {
            name: parameter
            for name, parameter in self.parameters.items()
            if parameter.requires_grad and self._idle(parameter)
        }

    def _idle(self, parameter: Parameter) -> bool:
        holder = self._holders.get(id(parameter))
        return holder is None or id(holder[0]) not in self._steps

    def routed(self, trace: Trace) -> set[str]:
        """Return the paths of modules that did not run where a sibling did, now or earlier.

        Siblings are members of a container, a module without a forward of its own: experts,
        heads by task, layers that are skipped at random.
        """
        containers = {
            path: [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            for path, module in self._model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
            and type(module).forward is Module.forward
        }
        idle: set[str] = set()
        busy = {holder for path in trace.ran for holder in holders(path)}
        for path, members in containers.items():
            rest = {member for member in members if member not in busy}
            if 0 < len(rest) < len(members):
                self._choosing.add(path)
            # Where a choice was made once, a step that chooses none of them is one, too.
            if path in self._choosing:
                idle |= rest
        return idle

    def start(self, ledger: Ledger) -> Mapping[str, _Start]:
        """Measure the parameters before the first step."""
        return {
            name: _Start(parameter, self.name_holder(parameter), ledger)
            for name, parameter in self.parameters.items()
        }

    def name_holder(self, parameter: Parameter) -> str:
        """Return the label of the optimizer that holds a parameter; empty for none."""
        holder = self._holders.get(id(parameter))
        return self.label(holder[0]) if holder else ""


def _planned(
    index: int, group: Mapping[str, Any], names: Mapping[int, str], decay: str
) -> GroupPlan:
    settings = {
        name: float(value)
        for name, value in group.items()
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    }
    betas = group.get("betas")
    return GroupPlan(
        index=index,
        parameters=tuple(names[id(p)] for p in group["params"] if id(p) in names),
        settings=settings,
        beta=float(betas[0]) if isinstance(betas, tuple) else math.nan,
        decay=decay,
    )


class _Start:
    """The numbers of one parameter on their way to the host."""

    def __init__(self, parameter: Parameter, optimizer: str, ledger: Ledger) -> None:
        self._shape = tuple(parameter.shape)
        self._trainable = parameter.requires_grad
        self._optimizer = optimizer
        self._norm, self._largest, self._apart = Entry(1.0), Entry(1.0), Entry(1.0)
        values = dense(parameter)
        self._size = 1
        if values is not None:
            few = sample(values, PARAMETER_SAMPLE)
            self._size = few.numel()
            self._norm = ledger.note(norm(few))
            self._largest = ledger.note(largest(values))
            if values.ndim > 1 and values.shape[0] > 1:
                self._apart = ledger.note(spread_of_units(values))

    def observation(self, name: str) -> ParameterStart:
        """Return the numbers that have arrived."""
        fan_in = 0
        if len(self._shape) > 1 and self._shape[0]:
            fan_in = int(torch.Size(self._shape).numel() / self._shape[0])
        return ParameterStart(
            shape=self._shape,
            module=owner(name),
            trainable=self._trainable,
            optimizer=self._optimizer,
            rms=self._norm.value / self._size**0.5,
            largest=self._largest.value,
            fan_in=fan_in,
            identical_units=self._apart.value <= ROUNDING,
        )


def spread_of_units(values: Tensor) -> Tensor:
    """Return how much units (rows) differ from their mean, relative to their norm; 0 for zeros."""
    rows = _few_units(values)
    apart = norm(rows - rows.mean(dim=0))
    return apart / norm(rows).clamp_min(torch.finfo(torch.float32).tiny)


def spread_of_twins(values: Tensor) -> Tensor:
    """Return how far the loneliest unit lies from the one most like it, relative to their size.

    The gates of a recurrent layer share a weight, so its units may be alike gate by gate only.
    Units that are all zero are left out: nothing has touched them.
    """
    rows = _few_units(values)
    direction = torch.linspace(1.0, 2.0, rows.shape[1], dtype=rows.dtype, device=rows.device)
    rows = rows[(rows @ direction.sin()).argsort()]  # units that are alike come to lie together
    sizes = rows.norm(dim=1)
    steps = (rows[1:] - rows[:-1]).norm(dim=1)
    edge = steps.new_full((1,), float("inf"))
    nearest = torch.minimum(torch.cat([edge, steps]), torch.cat([steps, edge]))
    lonely = torch.where(sizes > 0, nearest, torch.zeros_like(nearest)).amax()
    typical = norm(rows) / (sizes > 0).sum().clamp_min(1).sqrt()
    apart: Tensor = lonely / typical.clamp_min(torch.finfo(torch.float32).tiny)
    return apart


def _few_units(values: Tensor) -> Tensor:
    """Return at most ``UNITS`` units with at most ``PARAMETER_SAMPLE`` inputs each."""
    rows = values[:: stride_for(values.shape[0], UNITS)].flatten(1)
    return rows[:, :: stride_for(rows.shape[1], PARAMETER_SAMPLE)].to(wide(values))


def holders(path: str) -> Iterator[str]:
    """Yield a path and those of the modules that it lies in, innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def inside(path: str, parent: str) -> bool:
    """Tell whether a module is another one or lies in it, by their paths."""
    return path == parent or path.startswith(parent + ".")
