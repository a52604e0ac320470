"""A copy of the user's module, on which its training step can be run at no risk to the run."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import logging
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lightning_debug.experiments.batches import NotApplicableError as NotApplicableError
from lightning_debug.experiments.batches import detached, duplicate, widened
from lightning_debug.experiments.isolation import isolated, seed
from lightning_debug.experiments.outward import forget
from lightning_debug.experiments.stand_ins import Mute, OptimizerStandIn, TrainerStandIn
from lightning_debug.experiments.state import DATA, Contents, Outside, is_state
from lightning_debug.experiments.unsaved import Load, Unsaved, elements
from lightning_debug.taps.statistics import tensors_in

log = logging.getLogger("lightning_debug")
OURS = "lightning_debug."
# Parameters, gradients, a snapshot and the work itself, all in float64.
COPIES = 10
SEED = 1
MOST_ITEMS = 10_000
CONTAINERS = (list, tuple, set, dict, deque)
# What torch keeps on a module: hooks, children. Its mode is state.
OWN = frozenset(vars(Module())) - {"training"}
# Methods of a LightningModule that reach out of it.
OF_A_LOGGER = ("log", "log_dict", "print", "lr_schedulers")
OF_A_TRAINER = (
    "optimizers",
    "manual_backward",
    "toggle_optimizer",
    "untoggle_optimizer",
    "toggled_optimizer",
    "clip_gradients",
    "all_gather",
)
NARROW = frozenset([torch.float16, torch.bfloat16, torch.float32])

T = TypeVar("T")


class Replica:
    """A deep copy of a module with a ``training_step``, cut off from everything around it.

    Its trainer tells what the real one tells and does nothing; its optimizers do not step; what
    it logs goes nowhere. It never touches a tensor of the original: a step that would, because
    something in it cannot be copied, is stopped before it does.

    Args:
        model: A LightningModule, or any module with a ``training_step``.
        optimizers: Its optimizers, in the order in which it asks for them.
        dtype: Of its floating-point parameters, buffers and data; None: as they are.
        load: Learns how much a step keeps, for all copies of a model.

    Attributes:
        evaluating: Whether it runs in eval mode.
        seed: Of all random generators, at the start of each run.
        twins: The copy of each parameter, by the identity of the original.
        load: How much a step keeps for its backward pass.

    Raises:
        NotApplicableError: If it cannot be copied, or memory does not suffice.
    """

    def __init__(
        self,
        model: Module,
        optimizers: Sequence[Optimizer] = (),
        dtype: torch.dtype | None = torch.float64,
        load: Load | None = None,
    ) -> None:
        _require_precision(model)
        _require_memory(model)
        if optimizers:
            _require_steps(model)
        self.dtype = dtype
        self.evaluating = False
        self.seed = SEED
        originals = [*model.parameters(), *model.buffers()]
        self._originals = {id(tensor) for tensor in originals}
        self.load = load or Load()
        self._unsaved: Unsaved | None = None
        self._goes_back = False
        self._fed = 0
        memo: dict[int, Any] = {}
        self.module = _twin(model, memo)
        self._outside = Outside(model, memo)
        if dtype is not None:
            _widen(self.module, dtype)
        for module in self.module.modules():
            for parameter in module.parameters(recurse=False):
                parameter.grad = None
        pairs = zip(map(id, model.parameters()), self.module.parameters(), strict=True)
        self.twins: Mapping[int, Tensor] = dict(pairs)
        self._optimizers = [OptimizerStandIn(o, self.twins) for o in optimizers]
        self._heard: list[Tensor] = []
        self._moved: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ())
        self._trainer = getattr(model, "_trainer", None)
        self._detach()
        self._snapshot = _Snapshot(self.module, originals)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters that are trained, by name."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    @property
    def optimizers(self) -> Sequence[OptimizerStandIn]:
        """Return the stand-ins for the optimizers."""
        return self._optimizers

    def modules(self) -> list[Module]:
        """Return the modules of the copy that take hooks; scripted ones take none."""
        return [m for m in self.module.modules() if not isinstance(m, torch.jit.ScriptModule)]

    def paths(self) -> dict[int, str]:
        """Return the path of each module of the copy by identity."""
        return {id(module): path for path, module in self.module.named_modules()}

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Isolate what is done with the replica from the process; needed by all that follows."""
        guard = _Guard(self._originals, self.dtype)
        with isolated(self.dtype), self._outside.swapped(), guard:
            yield

    def restore(self) -> None:
        """Bring weights, buffers, modes, counters and files back to what they were when copied."""
        forget()
        self._outside.restore()
        with torch.no_grad(), torch._C.DisableTorchFunction():
            self._snapshot.restore()
            for parameter, values in zip(*self._moved, strict=True):
                parameter.copy_(values)
        if self.evaluating:
            self.module.eval()
        seed(self.seed)

    @contextlib.contextmanager
    def moved(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
        """Start from other values for some parameters, in all that is run inside."""
        self._moved = parameters, values
        try:
            yield
        finally:
            self._moved = (), ()

    def losses(self, batch: Any, *, index: int = 0) -> list[Tensor]:
        """Run the training step once, from the state that was copied.

        Returns:
            The losses that it would call backward on, with their graphs.

        Raises:
            NotApplicableError: If it fails, or reaches for something of the original.
        """
        self.restore()
        return self.advance(batch, index=index)

    def advance(self, batch: Any, *, index: int = 0) -> list[Tensor]:
        """Run the training step once, from the state that the run before has left.

        Returns:
            The losses that it would call backward on, with their graphs.

        Raises:
            NotApplicableError: If it fails, or reaches for something of the original.
        """
        self._heard.clear()
        self._fed += elements(batch) if self._unsaved is not None else 0
        step: Callable[..., Any] = self.module.training_step  # type: ignore[assignment]
        data = detached(batch) if self.dtype is None else widened(detached(batch), self.dtype)
        alone = len(inspect.signature(step).parameters) == 1
        try:
            out = step(data) if alone else step(data, index)
        except Exception as error:
            raise NotApplicableError(f"the training step fails on a copy: {error}") from error
        loss = out.get("loss") if isinstance(out, Mapping) else out
        losses = list(self._heard)
        if isinstance(loss, Tensor) and not any(loss is heard for heard in losses):
            losses.append(loss)
        self._heard.clear()
        return [x.mean() for x in losses if x.requires_grad]

    def forward(self, run: Callable[[], T]) -> T:
        """Call a function that runs the copy forward only; nothing is kept for a backward pass.

        Where the step goes backward by itself, the function is called once more, and all is kept.

        Args:
            run: Starts from the state that was copied, each time that it is called.
        """
        if self._goes_back or self._unsaved is not None:
            return run()
        self._fed, self._unsaved = 0, Unsaved()
        try:
            with self._unsaved as unsaved:
                out = run()
            if not unsaved.missed:
                if self._fed:
                    self.load.note(unsaved.elements, self._fed)
                return out
        except Exception as error:
            log.debug("lightning_debug: a step needs its graph: %s", error)
        finally:
            self._unsaved = None
        self._goes_back = True
        return run()

    def rebase(self, values: Sequence[Tensor]) -> None:
        """Start every run from other parameters and buffers, given in their order.

        Args:
            values: They must not change as long as the copy is used.
        """
        self._snapshot.rebase(values)

    def started(self) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors of the copy, each with the values from which every run starts.

        The values are in the formats of the run.
        """
        return self._snapshot.tensors

    def run(
        self,
        module: Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        copies: bool = True,
    ) -> Any:
        """Run one module of the copy again, from the state that was copied.

        Args:
            module: The module.
            args: What it takes.
            kwargs: What it takes by name.
            copies: Whether to hand it copies of them, without their graphs.
        """
        self.restore()
        try:
            if copies:
                args, kwargs = duplicate(tuple(args)), duplicate(dict(kwargs))
            return module(*args, **kwargs)
        except Exception as error:
            raise NotApplicableError(
                f"{type(module).__name__} fails on its own: {error}"
            ) from error

    def release(self) -> None:
        """Let go of the copy at once, and not when the garbage collector comes by.

        What is left of it in cycles, as of trainers and optimizers, holds no values.
        """
        for tensor, _ in self.started():
            if id(tensor) not in self._originals and type(tensor.data) is Tensor:
                tensor.grad = None
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self._snapshot.tensors.clear()
        for module in self.module.modules():
            for name in ("optimizers", "manual_backward"):
                module.__dict__.pop(name, None)

    @contextlib.contextmanager
    def attachable(self) -> Iterator[Module]:
        """Give the copy back what a trainer of its own needs; still, it logs nowhere."""
        try:
            for module in self._steppers():
                for name in OF_A_TRAINER:
                    module.__dict__.pop(name, None)
                module.__dict__["_trainer"] = None
            yield self.module
        finally:
            self._detach()

    def _steppers(self) -> list[Module]:
        return [m for m in self.module.modules() if hasattr(type(m), "training_step")]

    def _detach(self) -> None:
        """Give the copy stand-ins for whatever reaches out of the module."""
        for module in self._steppers():
            # A compiled module keeps its compiled methods, which are bound to the original.
            for name in vars(module).get("_compiler_ctx") or ():
                module.__dict__.pop(name.removeprefix("original_"), None)
            module.__dict__["_trainer"] = TrainerStandIn(self._trainer)
            module.__dict__ |= dict.fromkeys((*OF_A_LOGGER, *OF_A_TRAINER), Mute())
            module.__dict__ |= {
                "optimizers": self._give_optimizers,
                "manual_backward": self._hear,
                "all_gather": lambda data, *_, **__: data,
                "toggled_optimizer": lambda *_, **__: contextlib.nullcontext(),
            }

    def _give_optimizers(self, use_pl_optimizer: bool = True) -> Any:
        found = self._optimizers
        return found[0] if len(found) == 1 else found

    def _hear(self, loss: Tensor, *args: object, **kwargs: object) -> None:
        self._heard.append(loss)


class _Guard(TorchFunctionMode):
    """Keeps functions off the tensors of the original, and floating-point numbers in one dtype."""

    def __init__(self, originals: set[int], dtype: torch.dtype | None) -> None:
        super().__init__()
        self._originals = originals
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, unless it would touch the original."""
        if self._touched((*args, *kwargs.values()) if kwargs else args):
            raise NotApplicableError("the step uses tensors of the model that cannot be copied")
        name = getattr(func, "__name__", "")
        if self._dtype is torch.float64 and name != "__get__":
            if name in ("float", "half", "bfloat16") and args:
                return args[0].double()
            args = [self._dtype if _narrow(value) else value for value in args]
            kwargs = {k: self._dtype if _narrow(v) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs) if kwargs else func(*args)

    def _touched(self, values: Sequence[Any]) -> bool:
        """Tell whether a tensor of the original is in an argument; asked at every function."""
        originals = self._originals
        for value in values:
            if id(value) in originals:
                return True
            if isinstance(value, CONTAINERS) and any(
                id(tensor) in originals for tensor in tensors_in(value)
            ):
                return True
        return False


class _Snapshot:
    """The state of a module: tensors, modes, generators, and what else is kept on modules."""

    def __init__(self, module: Module, originals: Sequence[Tensor]) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        # Those of the user stay as they are for as long as a copy of them is used.
        same = [t.shape for t in tensors] == [t.shape for t in originals]
        values = originals if same else [t.clone() for t in tensors]
        self.tensors = [(t, v.detach()) for t, v in zip(tensors, values, strict=True)]
        self._trained = [(p, p.requires_grad) for p in module.parameters()]
        self._values = [
            (m, {k: v for k, v in vars(m).items() if k not in OWN and is_state(v)})
            for m in module.modules()
        ]
        self._contents = Contents(
            [value for m in module.modules() for k, value in vars(m).items() if k not in OWN],
            known=(*module.modules(), *tensors),
        )

    def rebase(self, values: Sequence[Tensor]) -> None:
        """Bring parameters and buffers back to these values from now on."""
        held = [tensor for tensor, _ in self.tensors]
        self.tensors = list(zip(held, values, strict=True))

    def restore(self) -> None:
        """Bring everything back."""
        for tensor, values in self.tensors:
            if tensor.shape != values.shape:  # observers of ranges grow when they first run
                tensor.resize_(values.shape)
            tensor.copy_(values)
            tensor.grad = None
        for parameter, trained in self._trained:
            parameter.requires_grad_(trained)
        for module, state in self._values:
            new = vars(module).keys() - state.keys() - OWN
            for name in [name for name in new if is_state(vars(module)[name])]:
                del module.__dict__[name]
            module.__dict__ |= state
        self._contents.restore()


@contextlib.contextmanager
def working_copy(
    model: Module,
    optimizers: Sequence[Optimizer] = (),
    *,
    dtype: torch.dtype | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    load: Load | None = None,
) -> Iterator[Replica]:
    """Give a replica that works, and let go of it afterwards.

    Args:
        model: The module to copy.
        optimizers: Its optimizers.
        dtype: What to widen numbers to; None for the formats of the run.
        precision: Gives the context in which the training step runs, such as autocast.
        load: Learns how much a step keeps, for all copies of a model.

    Raises:
        NotApplicableError: If the model cannot be copied.
    """
    replica = Replica(model, optimizers, dtype=dtype, load=load)
    try:
        with replica.working(), precision():
            yield replica
    finally:
        replica.release()


def single(losses: Sequence[Tensor]) -> Tensor:
    """Return the one loss of a training step.

    Raises:
        NotApplicableError: If it has several, or none.
    """
    if len(losses) != 1:
        raise NotApplicableError("the step has several losses, or none")
    return losses[0]


def _narrow(value: object) -> bool:
    return isinstance(value, torch.dtype) and value in NARROW


def _kept(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, CONTAINERS) else value


def twin(model: Module) -> Module:
    """Return a deep copy of a module that shares nothing with it but data that are too many.

    It has no trainer. What cannot be copied, such as a lock or a file, is mute in it.

    Raises:
        NotApplicableError: If it cannot be copied, or memory does not suffice.
    """
    _require_memory(model)
    return _twin(model, {})


def _twin(model: Module, memo: dict[int, Any]) -> Module:
    try:
        copied = copy.deepcopy(model, _prepared(model, memo))
        _rebind(copied, memo)
    except Exception as error:
        raise NotApplicableError(f"the model cannot be copied: {error}") from error
    return copied


def _prepared(model: Module, memo: dict[int, Any]) -> dict[int, Any]:
    """Say in a memo for ``deepcopy`` what becomes of the things that it cannot copy."""
    trainer = getattr(model, "_trainer", None)
    if trainer is not None:
        memo[id(trainer)] = None
    for module in model.modules():
        for value in vars(module).values():
            _prepare(value, memo)
    return memo


def _prepare(value: Any, memo: dict[int, Any], depth: int = 2) -> None:
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, Module):
        pass
    elif isinstance(value, CONTAINERS) and len(value) > MOST_ITEMS:
        memo[id(value)] = copy.copy(value)  # the data: too many to copy one by one
    elif depth and isinstance(value, CONTAINERS):
        for item in value.values() if isinstance(value, dict) else value:
            _prepare(item, memo, depth - 1)
    elif isinstance(value, torch.Generator):
        twin = torch.Generator(value.device)
        twin.set_state(value.get_state())
        memo[id(value)] = twin
    elif isinstance(value, (*DATA, np.memmap)) or hasattr(value, "train_dataloader"):
        memo[id(value)] = value
    elif isinstance(value, types.FunctionType):
        pass  # a function is its own copy; see _rebind
    elif not isinstance(value, (bool, int, float, str, type(None), type, types.ModuleType)):
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            memo[id(value)] = Mute()  # a lock, a file, an iterator


def _rebind(copied: Module, memo: Mapping[int, Any]) -> None:
    """Make functions that the copy keeps hold the copies of what they hold."""
    for module in copied.modules():
        places: list[Any] = [module.__dict__, module._forward_hooks, module._forward_pre_hooks]
        for held in places:
            for name, value in held.items():
                if isinstance(value, types.FunctionType) and value.__closure__:
                    held[name] = _rebound(value, memo)


def _rebound(function: types.FunctionType, memo: Mapping[int, Any]) -> types.FunctionType:
    def twin(value: Any) -> Any:
        return _kept(memo.get(id(value), value))

    cells = tuple(types.CellType(twin(cell.cell_contents)) for cell in function.__closure__ or ())
    code, defaults = function.__code__, function.__defaults__
    copied = types.FunctionType(code, function.__globals__, function.__name__, defaults, cells)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _widen(module: Module, dtype: torch.dtype) -> None:
    """Bring all real floating-point tensors to one dtype, also those in plain attributes."""
    for child in module.modules():
        for tensor in (*child.parameters(recurse=False), *child.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                child.__dict__[name] = value.to(dtype)
            elif isinstance(value, (list, tuple, dict)) and not name.startswith("_"):
                for item in value.values() if isinstance(value, dict) else value:
                    if isinstance(item, Module):
                        _widen(item, dtype)
        if "_dtype" in vars(child):
            child.__dict__["_dtype"] = dtype


def _require_precision(model: Module) -> None:
    """Refuse a copy on a device that cannot be as precise as is needed."""
    if any(tensor.device.type == "mps" for tensor in (*model.parameters(), *model.buffers())):
        raise NotApplicableError("the device has no float64")


def _require_memory(model: Module) -> None:
    """Refuse a copy that would take more than half of the memory that is free."""
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if device.type == "meta" or any(map(is_lazy, tensors)):
        raise NotApplicableError("the model has no values yet")
    if any(hasattr(t, "to_local") or t.is_quantized for t in tensors):
        raise NotApplicableError("the parameters are sharded or quantised")
    kept = [t for m in model.modules() for k, v in vars(m).items() if k not in OWN for t in _big(v)]
    needed = COPIES * 8 * sum(t.numel() for t in tensors) + 2 * sum(kept)
    free = _free_memory(device)
    if needed > free / 2:
        sizes = f"{needed / 2**30:.1f} GiB of {free / 2**30:.1f}"
        raise NotApplicableError(f"a copy would take {sizes}")


def _require_steps(model: Module) -> None:
    """Refuse a copy that trains otherwise: hooks on parameters are not copied."""
    hooks = (h for p in model.parameters() for h in (p._post_accumulate_grad_hooks or {}).values())
    if any(not str(getattr(hook, "__module__", "")).startswith(OURS) for hook in hooks):
        raise NotApplicableError("hooks on the parameters step them during the backward pass")


def _big(value: Any) -> Iterator[int]:
    """Yield the bytes of the tensors and arrays that a plain attribute holds."""
    if isinstance(value, CONTAINERS):
        items = value.values() if isinstance(value, dict) else value
        for item in itertools.islice(items, MOST_ITEMS):
            yield from _big(item)
    elif isinstance(value, (Tensor, np.ndarray)):
        yield value.nbytes


def _free_memory(device: torch.device) -> float:
    """Return the bytes that are free where a model lies; infinity where nothing tells."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), "inf")
    return float(available) * 1024
