"""What a training step keeps from one call to the next, besides parameters and buffers."""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import io
import random
import sys
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.stand_ins import Mute
from lightning_debug.taps.lines import LIBRARIES

CONTAINERS = (list, dict, set, deque)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DATA = (Dataset, DataLoader, Sampler)
MOST_ITEMS = 10_000
MOST_BYTES = 64 * 2**20
MOST_NODES = 5_000
DEEPEST = 6
PLAIN = (bool, int, float, complex, str, bytes, type(None), tuple, frozenset)


class Contents:
    """Brings what objects hold back to what it was, and leaves the objects the same.

    Args:
        roots: Lists, dictionaries, tensors, generators, objects of the user's classes; others
            are left alone. What they hold is followed.
        known: Objects that others bring back.
    """

    def __init__(self, roots: Iterable[Any], known: Iterable[Any] = ()) -> None:
        self._seen = {id(value) for value in known}
        self._kept: list[Any] = []  # so that no identity is given away again
        self._back: list[Callable[[], None]] = []
        self._bytes = 0
        for root in roots:
            self._follow(root, 0)

    def restore(self) -> None:
        """Bring everything back."""
        for back in self._back:
            back()

    def _follow(self, value: Any, depth: int) -> None:
        if not isinstance(value, (tuple, *GENERATORS)) and (
            isinstance(value, PLAIN) or not is_state(value)
        ):
            return
        if id(value) in self._seen or depth > DEEPEST or len(self._kept) > MOST_NODES:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, GENERATORS):
            state = _state_of(value)
            self._back.append(lambda: _set_state(value, state))
        elif isinstance(value, tuple):
            for item in value[:MOST_ITEMS]:
                self._follow(item, depth + 1)
        elif isinstance(value, CONTAINERS):
            self._container(value)
            if len(value) <= MOST_ITEMS:  # of more, the items are not copies
                for item in list(value.values() if isinstance(value, dict) else value):
                    self._follow(item, depth + 1)
        else:
            held = dict(vars(value))
            self._back.append(lambda: _refill(vars(value), held))
            for item in held.values():
                self._follow(item, depth + 1)

    def _tensor(self, tensor: Tensor) -> None:
        self._bytes += tensor.nbytes
        plain = tensor.is_leaf and tensor.layout is torch.strided and tensor.is_contiguous()
        if not plain or tensor.is_inference() or self._bytes > MOST_BYTES:
            return
        values = tensor.detach().clone()

        def back() -> None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                if tensor.is_leaf and tensor.shape == values.shape:
                    tensor.copy_(values)

        self._back.append(back)

    def _array(self, array: Any) -> None:
        self._bytes += array.nbytes
        if array.flags.writeable and not isinstance(array, np.memmap) and self._bytes < MOST_BYTES:
            values = array.copy()
            self._back.append(lambda: np.copyto(array, values))

    def _container(self, value: Any) -> None:
        held = copy.copy(value)
        if isinstance(value, (list, deque)):
            fill: Callable[..., Any] = value.extend
        else:  # a counter would count
            fill = (
                functools.partial(dict.update, value)
                if isinstance(value, Counter)
                else value.update
            )

        def back() -> None:
            value.clear()
            fill(held)

        self._back.append(back)


class Outside:
    """State that the user's code keeps in globals and on classes: a copy takes its place.

    Args:
        model: The user's module.
        memo: Of the deep copy of the model, so that what refers to it refers to its copy.
    """

    def __init__(self, model: Module, memo: dict[int, Any]) -> None:
        self._places: list[tuple[Any, str]] = []
        self._copies: list[Any] = []
        for space, name, value in _Search(model).found:
            twin = _twin(value, memo)
            if twin is not value or isinstance(value, PLAIN):
                self._places.append((space, name))
                self._copies.append(twin)
        # The model's own copy is brought back by others.
        models = [x for x in self._copies if isinstance(x, Module)]
        self._contents = Contents(
            [t for m in models for t in (*m.parameters(), *m.buffers())] + self._copies
        )

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the copies where the originals are, and the originals back."""
        originals = [(space, name, _get(space, name)) for space, name in self._places]
        try:
            self._put()
            yield
        finally:
            for space, name, value in originals:
                _set(space, name, value)

    def restore(self) -> None:
        """Bring the copies back to what they were; only inside of :meth:`swapped`."""
        self._contents.restore()
        self._put()

    def _put(self) -> None:
        for (space, name), value in zip(self._places, self._copies, strict=True):
            _set(space, name, value)


class _Search:
    """Looks through the code of the user's module for what it keeps elsewhere.

    Attributes:
        found: Namespaces or classes, with the name and the value of what is kept there.
    """

    def __init__(self, model: Module) -> None:
        self.found: list[tuple[Any, str, Any]] = []
        self._seen: set[Any] = set()
        for module in model.modules():
            self._class(type(module))
            for value in vars(module).values():
                if isinstance(value, types.FunctionType):
                    self._function(value)
                elif of_a_user(value):
                    self._class(type(value))

    def _class(self, kind: type) -> None:
        for parent in kind.__mro__:
            if parent in self._seen or not _of_the_user(parent.__module__):
                continue
            self._seen.add(parent)
            for name, value in list(vars(parent).items()):
                inner = value.fget if isinstance(value, property) else value
                inner = getattr(inner, "__func__", inner)
                if isinstance(inner, types.FunctionType):
                    self._function(inner)
                elif not name.startswith("__") and _is_kept(value) and _settable(parent, name):
                    self.found.append((parent, name, value))

    def _function(self, function: Any) -> None:
        function = getattr(function, "__wrapped__", function)
        code, space = getattr(function, "__code__", None), getattr(function, "__globals__", {})
        if code is None or code in self._seen or not _of_the_user(space.get("__name__", "")):
            return
        self._seen.add(code)
        names = set(_names(code))
        self._space(space, names, set(_assigned(code)))

    def _space(self, space: dict[str, Any], names: set[str], assigned: set[str]) -> None:
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, types.FunctionType):
                self._function(value)
            elif isinstance(value, type):
                self._class(value)
            elif isinstance(value, types.ModuleType):
                key = (value.__name__, frozenset(names))
                if key not in self._seen and _of_the_user(value.__name__):
                    self._seen.add(key)
                    self._space(vars(value), names, set())
            elif (id(space), name) not in self._seen and (name in assigned or _is_kept(value)):
                self._seen.add((id(space), name))
                self.found.append((space, name, value))
                if of_a_user(value):
                    self._class(type(value))


class _Exhausted:
    """Takes the place of an iterator that cannot be copied."""

    def __iter__(self) -> _Exhausted:
        return self

    def __next__(self) -> Any:
        raise NotApplicableError("the step draws from an iterator that cannot be copied")


def is_state(value: Any) -> bool:
    """Tell whether an attribute may say what was done before."""
    return isinstance(value, (*PLAIN, *CONTAINERS, Tensor, np.ndarray)) or of_a_user(value)


def of_a_user(value: Any) -> bool:
    """Tell whether it is an object of a class of the user's, other than modules and data."""
    if isinstance(value, (Module, type, types.ModuleType, *DATA)):
        return False
    if hasattr(type(value), "train_dataloader") or not hasattr(value, "__dict__"):
        return False
    return not isinstance(value, (Tensor, types.FunctionType)) and _of_the_user(
        type(value).__module__
    )


@functools.cache  # asked for every attribute of every module
def _of_the_user(name: str) -> bool:
    """Tell whether a Python module is none of a library, as far as one can see."""
    if name.partition(".")[0] in {*LIBRARIES, *sys.stdlib_module_names}:
        return name == "__main__"
    path = str(getattr(sys.modules.get(name), "__file__", None) or "")
    return bool(name) and "site-packages" not in path and "dist-packages" not in path


def _is_kept(value: Any) -> bool:
    kinds = (*CONTAINERS, *GENERATORS, Tensor, np.ndarray, Module, io.IOBase)
    if isinstance(value, (*DATA, type, types.FunctionType)):
        return False
    return (
        isinstance(value, kinds) or hasattr(value, "__next__") or _writes(value) or of_a_user(value)
    )


def _settable(kind: type, name: str) -> bool:
    """Tell whether an attribute of a class can be set; members of an enumeration cannot."""
    try:
        setattr(kind, name, vars(kind)[name])
    except (AttributeError, TypeError):
        return False
    return True


def _writes(value: Any) -> bool:
    return hasattr(value, "writerow") or hasattr(value, "add_scalar")


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _assigned(code: types.CodeType) -> Iterator[str]:
    """Yield the globals that code assigns to."""
    for constant in (code, *code.co_consts):
        if isinstance(constant, types.CodeType):
            for step in dis.get_instructions(constant):
                if step.opname == "STORE_GLOBAL":
                    yield str(step.argval)


def _twin(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy; the value itself where it is left alone."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, io.IOBase):
        return Mute() if not value.closed and value.writable() else value
    if _writes(value):
        return Mute()
    if _size(value) > MOST_BYTES:
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return _Exhausted() if hasattr(value, "__next__") else value


def _size(value: Any) -> float:
    """Return the bytes of the tensors that a value holds; infinity for very many items."""
    if isinstance(value, (Tensor, np.ndarray)):
        return float(value.nbytes)
    if isinstance(value, Module):
        return float(sum(t.nbytes for t in (*value.parameters(), *value.buffers())))
    if isinstance(value, CONTAINERS):
        if len(value) > MOST_ITEMS:
            return float("inf")
        return sum(_size(item) for item in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, Mapping) or not of_a_user(value):
        return 0.0
    return sum(_size(item) for item in vars(value).values() if not of_a_user(item))


def _refill(space: dict[str, Any], held: Mapping[str, Any]) -> None:
    space.clear()
    space.update(held)


def _get(space: Any, name: str) -> Any:
    return vars(space)[name] if isinstance(space, type) else space[name]


def _set(space: Any, name: str, value: Any) -> None:
    if isinstance(space, type):
        setattr(space, name, value)
    else:
        space[name] = value


def _state_of(generator: Any) -> Any:
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return copy.deepcopy(generator.bit_generator.state)


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = copy.deepcopy(state)
