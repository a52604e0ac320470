"""Where in the model a tensor comes from, while the training step runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor
from torch.nn import Module, Parameter


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a tensor.

    Attributes:
        place: The module, or the function in a module, that made it.
        axis: The axis of its units: 1 after convolutions, -1 after linear layers.
        pending: Positions of the non-linearities that it went through since the last weight layer.
    """

    place: str = ""
    axis: int = -1
    pending: tuple[int, ...] = ()


class Material(Enum):
    """What a tensor is made of, where that is neither data nor what a layer made of data."""

    CONSTANTS = auto()
    WEIGHTS = auto()


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a tensor's gradient.

    Attributes:
        cut: The function that took its gradient away, such as ``"detach"``; empty if none did.
        material: Set where it is made of parameters or constants only.
    """

    cut: str = ""
    material: Material | None = None


PLAIN = Mark()
CONSTANTS = frozenset(["eye", "zeros", "ones", "full"])


@dataclass(slots=True)
class Frame:
    """A module that is running."""

    module: Module
    path: str | None
    leaf: bool = True
    losses: int = 0


@dataclass
class Trace:
    """The modules that run, and the origin of the tensors that they make.

    Attributes:
        paths: Path of each module of the model, by identity; others are not ours.
        frames: The modules that are running, outermost first.
        used: Identities of the parameters that were handed to a function.
        tamed: Places whose output went into a function that takes any size.
        read: Identities of the tensors that a function has computed something from.
        ran: Position of the first run of each module, by path.
        losses: Number of loss functions called so far.
    """

    paths: Mapping[int, str]
    frames: list[Frame] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    tamed: set[str] = field(default_factory=set)
    read: set[int] = field(default_factory=set)
    ran: dict[str, int] = field(default_factory=dict)
    losses: int = 0
    _origins: dict[int, tuple[weakref.ref[Tensor], Origin]] = field(default_factory=dict)
    _marks: dict[int, tuple[weakref.ref[Tensor], Mark]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Return the path of the innermost running module; empty in the training step itself."""
        return next((frame.path for frame in reversed(self.frames) if frame.path), "")

    def enter(self, module: Module) -> None:
        """Note that a module starts to run."""
        path = self.paths.get(id(module))
        if self.frames:
            self.frames[-1].leaf = False
        if path is not None:
            self.ran.setdefault(path, len(self.ran))
        self.frames.append(Frame(module, path, losses=self.losses))

    def leave(self, module: Module) -> Frame | None:
        """Note that a module has run; drop the frames of modules that raised inside it."""
        while self.frames:
            frame = self.frames.pop()
            if frame.module is module:
                return frame
        return None

    def origin(self, tensor: Tensor) -> Origin | None:
        """Return what is known of a tensor."""
        found = self._origins.get(id(tensor))
        # Identities are used again when a tensor dies; the weak reference tells.
        return found[1] if found and found[0]() is tensor else None

    def note(self, tensor: Tensor, origin: Origin) -> None:
        """Remember where a tensor comes from."""
        self._origins[id(tensor)] = weakref.ref(tensor), origin

    def known(self, tensors: Iterable[Tensor]) -> list[Origin]:
        """Return the origins of those tensors that have one."""
        return [origin for t in tensors if (origin := self.origin(t)) is not None]

    def mark(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Follow what the outputs of a function are made of, and whether gradients reach them."""
        marks = [self.marked(tensor) for tensor in inputs]
        cut = ""
        if not any(tensor.requires_grad for tensor in outputs):
            cut = next((mark.cut for mark in marks if mark.cut), "")
            if not cut and any(tensor.requires_grad for tensor in inputs):
                cut = name if torch.is_grad_enabled() else "no_grad"
        materials = {mark.material for mark in marks}
        material = None
        if not inputs:
            # Points drawn or laid out in the step are data, as much as those of a loader.
            plain = name in CONSTANTS or all(tensor.numel() == 1 for tensor in outputs)
            material = Material.CONSTANTS if plain else None
        elif None not in materials:
            weights = Material.WEIGHTS in materials
            material = Material.WEIGHTS if weights else Material.CONSTANTS
        for tensor in outputs:
            if cut or material:
                self._marks[id(tensor)] = weakref.ref(tensor), Mark(cut, material)
            else:
                self._marks.pop(id(tensor), None)  # written over in place

    def marked(self, tensor: Tensor) -> Mark:
        """Return what :meth:`mark` found out about a tensor."""
        if isinstance(tensor, Parameter):
            return Mark(material=Material.WEIGHTS)
        found = self._marks.get(id(tensor))
        return found[1] if found and found[0]() is tensor else PLAIN

    def clear(self) -> None:
        """Forget everything about the step."""
        self.frames.clear()
        self.used.clear()
        self.tamed.clear()
        self.read.clear()
        self.ran.clear()
        self.losses = 0
        self._origins.clear()
        self._marks.clear()
