"""What a step may draw from besides its seeded generators: entropy, clocks, memory, identities.

Each can be held fixed, or given another value, in the thread that works; so one sees whether the
step depends on it.
"""

from __future__ import annotations

import contextlib
import datetime
import linecache
import os
import random
import sys
import sysconfig
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

CLOCKS = ("time", "perf_counter", "monotonic", "process_time")
UNFILLED = frozenset(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"])
# Between two looks at a clock, so that who waits for a time sees it come.
TICK = 1e-3
SHIFT = 0x5DEECE66D  # prime to the small numbers by which hashes are divided
MOST_SPACES = 50
ENTROPY, CLOCK, MEMORY, IDENTITY = "entropy", "clock", "memory", "identity"

_PATHS = sysconfig.get_paths()
LIBRARIES = (
    *(os.path.join(_PATHS[kind], "") for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)
OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")


@dataclass(frozen=True, slots=True)
class Sources:
    """What each source gives.

    Attributes:
        entropy: What the numbers of the operating system are made of; None: as they come.
        clock: What clocks show first; they go on by a millisecond each time that they are read.
        memory: What is in memory that nothing has been written to.
        identity: What is added to hashes of text and to identities of objects.
    """

    entropy: int | None = None
    clock: float = field(default_factory=time.time)
    memory: float = 0.0
    identity: int = 0

    def other(self, *sources: str, times: int = 1) -> Sources:
        """Return the same with other values of some sources, for each number others."""
        changes: dict[str, Any] = {
            ENTROPY: None if self.entropy is None else self.entropy + times,
            CLOCK: self.clock + 3.7 * times,
            MEMORY: self.memory + 0.73 * times,
            IDENTITY: self.identity + SHIFT * times,
        }
        return replace(self, **{source: changes[source] for source in sources})


@dataclass(frozen=True, slots=True)
class Drawn:
    """A line of the user's code that draws from a source.

    Attributes:
        line: ``"train.py:41"``.
        code: What is written there.
    """

    line: str
    code: str


class Drawing:
    """Gives each source its value while it is entered, and hears what the user's code draws.

    Args:
        sources: The values.
        module: A copy of the user's module; tells where the user's code is.

    Attributes:
        heard: The first line that draws from each source.
    """

    def __init__(self, sources: Sources, module: Module) -> None:
        self.heard: dict[str, Drawn] = {}
        self._sources = sources
        self._spaces = _spaces(module)
        self._thread = threading.get_ident()
        self._random = random.Random(sources.entropy)
        self._ticks = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Drawing:
        """Put replacements into the libraries and into the namespaces of the user's code."""
        with contextlib.ExitStack() as stack:
            for space, name, wanted in list(self._replacements()):
                stack.callback(_put, space, name, space.get(name, _NOTHING))
                space[name] = wanted
            stack.enter_context(_Filled(self._sources.memory, lambda: self._hear(MEMORY)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Take them out again."""
        self._stack.close()

    def _replacements(self) -> Iterator[tuple[dict[str, Any], str, Any]]:
        known = []
        for home, wanted in self._homes():
            for name, replacement in wanted.items():
                known.append((vars(home)[name], replacement))
                yield vars(home), name, replacement
        for space in self._spaces:
            for name, value in space.items():
                for original, replacement in known:
                    if value is original:
                        yield space, name, replacement
            for name, wanted_here in (("hash", self._hash), ("id", self._id)):
                if name not in space:
                    yield space, name, wanted_here

    def _homes(self) -> Sequence[tuple[types.ModuleType, Mapping[str, Any]]]:
        """Return the functions that draw; numpy's are made of Python's."""
        return (
            (time, self._clocks()),
            (datetime, {"datetime": self._dates()}),
            (os, {"urandom": self._only_here(os.urandom, ENTROPY, self._bytes)}),
            (
                random,
                {
                    "_urandom": self._only_here(os.urandom, ENTROPY, self._bytes),
                    "seed": self._only_here(random.seed, "", self._seed_python),
                    "Random": self._python_generators(),
                },
            ),
            (
                torch,
                {
                    "seed": self._only_here(torch.seed, ENTROPY, self._seed_torch),
                    "Generator": self._torch_generators(),
                },
            ),
        )

    def _only_here(self, original: Any, source: str, wanted: Callable[..., Any]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._here():
                return original(*args, **kwargs)
            if source:
                self._hear(source)
            return wanted(*args, **kwargs)

        return call

    def _like(self, original: type, **changes: Any) -> type:
        """Return a class that is another one but for some methods; for other threads, that one."""

        def make(cls: type, *args: Any, **kwargs: Any) -> Any:
            if not self._here():
                return original(*args, **kwargs)
            return original.__new__(cls, *args, **kwargs)

        def has(cls: type, value: object) -> bool:
            return isinstance(value, original)

        kind: type = type("Kind", (type(original),), {"__instancecheck__": has})
        like: type = kind(original.__name__, (original,), {"__new__": make, **changes})
        return like

    def _here(self) -> bool:
        return threading.get_ident() == self._thread

    def _hear(self, source: str) -> None:
        if source in self.heard:
            return
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith((*LIBRARIES, __file__)):
            frame = frame.f_back
        if frame is not None and not frame.f_code.co_filename.startswith(OURS):
            path, number = frame.f_code.co_filename, frame.f_lineno
            code = linecache.getline(path, number).strip()[:80]
            self.heard[source] = Drawn(f"{os.path.basename(path)}:{number}", code)

    # -- clocks ---------------------------------------------------------------------------

    def _clocks(self) -> dict[str, Any]:
        found = {}
        for name in CLOCKS:
            found[name] = self._only_here(vars(time)[name], CLOCK, self._now)
            nanoseconds = name + "_ns"
            found[nanoseconds] = self._only_here(
                vars(time)[nanoseconds], CLOCK, lambda: int(self._now() * 1e9)
            )
        return found

    def _now(self) -> float:
        self._ticks += 1
        return self._sources.clock + TICK * self._ticks

    def _dates(self) -> type:
        original = datetime.datetime

        def now(cls: type, tz: Any = None) -> Any:
            if not self._here():
                return original.now(tz)
            self._hear(CLOCK)
            return original.fromtimestamp(self._now(), tz)

        changed: Any = classmethod(now)
        return self._like(original, now=changed, today=changed, utcnow=changed)

    # -- entropy --------------------------------------------------------------------------

    def _bytes(self, size: int) -> bytes:
        if self._sources.entropy is None:
            return _urandom(size)
        return self._random.randbytes(size)

    def _number(self) -> int:
        return int.from_bytes(self._bytes(6), "big")

    def _seed_python(self, a: Any = None, version: int = 2) -> None:
        if a is None:
            self._hear(ENTROPY)
            a = self._number()
        _seed(a, version)

    def _seed_torch(self) -> int:
        number = self._number()
        torch.manual_seed(number)
        return number

    def _python_generators(self) -> type:
        def prepare(generator: Any, x: Any = None) -> None:
            if x is None and self._here():
                self._hear(ENTROPY)
                x = self._number()
            _Random.__init__(generator, x)

        return self._like(_Random, __init__=prepare)

    def _torch_generators(self) -> type:
        def seed(generator: Any) -> int:
            if not self._here():
                return int(_Generator.seed(generator))
            self._hear(ENTROPY)
            number = self._number()
            generator.manual_seed(number)
            return number

        return self._like(_Generator, seed=seed)

    # -- identities -----------------------------------------------------------------------

    def _hash(self, value: Any) -> int:
        plain = isinstance(value, (int, float, complex, type(None)))
        if plain or not self._here():
            return hash(value)
        self._hear(IDENTITY)
        return hash(value) ^ self._sources.identity

    def _id(self, value: Any) -> int:
        if not self._here():
            return id(value)
        self._hear(IDENTITY)
        return id(value) + self._sources.identity


class _Filled(TorchFunctionMode):
    """Writes a number into memory that a function returns as it found it."""

    def __init__(self, value: float, hear: Callable[[], None]) -> None:
        super().__init__()
        self._value = value
        self._hear = hear

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, and fill what it has left open."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in UNFILLED and isinstance(out, Tensor) and out.is_floating_point():
            self._hear()
            with torch.no_grad(), torch._C.DisableTorchFunction():
                out.fill_(self._value)
        return out


_NOTHING = object()
_urandom, _seed, _Random, _Generator = os.urandom, random.seed, random.Random, torch.Generator


def _put(space: dict[str, Any], name: str, value: Any) -> None:
    if value is _NOTHING:
        space.pop(name, None)
    else:
        space[name] = value


def _spaces(module: Module) -> list[dict[str, Any]]:
    """Return the namespaces of the user's code: where modules are defined, and what is used."""
    names = [type(child).__module__ for child in module.modules()]
    found: dict[str, dict[str, Any]] = {}
    while names and len(found) < MOST_SPACES:
        name = names.pop()
        home = sys.modules.get(name)
        if name in found or home is None or not _of_the_user(home):
            continue
        found[name] = vars(home)
        for value in vars(home).values():
            is_module = isinstance(value, types.ModuleType)
            names.append(str(value.__name__ if is_module else getattr(value, "__module__", "")))
    step: Any = getattr(module, "training_step", None)
    own = getattr(getattr(step, "__func__", step), "__globals__", None)
    spaces = list(found.values())
    return spaces if own is None or any(own is space for space in spaces) else [*spaces, own]


def _of_the_user(home: types.ModuleType) -> bool:
    path = getattr(home, "__file__", None)
    return home.__name__ == "__main__" or (
        path is not None and not path.startswith((*LIBRARIES, OURS))
    )
