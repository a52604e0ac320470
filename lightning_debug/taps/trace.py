"""Where in the model a tensor comes from, while the training step runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from lightning_debug.taps.graph import leaves
from lightning_debug.taps.lines import user_line, within


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
        line: The line of the user's code that did so.
    """

    cut: str = ""
    material: Material | None = None
    line: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the graph behind a parameter ends.

    Attributes:
        name: The function that ended it: ``"argmax"``, ``"no_grad"``, ``"item"``.
        line: The line of the user's code that called it.
        place: The module that was running.
    """

    name: str
    line: str
    place: str


PLAIN = Mark()
NORMS = frozenset("layer_norm group_norm instance_norm batch_norm rms_norm".split())
# What a norm written by hand divides by, and how it scales and shifts the rest.
SPREADS = frozenset("rsqrt sqrt std var std_mean var_mean norm vector_norm".split())
SCALINGS = frozenset("mul mul_ multiply add add_".split())
CONSTANTS = frozenset(["eye", "zeros", "ones", "full"])
MOST_WALKS = 16
TAKEN = frozenset(["item", "__float__", "tolist", "numpy", "no_grad", "checkpoint"])


def has_parameters(module: Module) -> bool:
    """Tell whether a module has parameters; of most modules without a walk through them."""
    if any(value is not None for value in module._parameters.values()):
        return True
    return bool(module._modules) and next(module.parameters(), None) is not None


def takes_only_shapes(name: str) -> bool:
    """Tell whether a function takes no more of a tensor than its shape, type and device."""
    return name.endswith("_like") or (name.startswith("new_") and name != "new_tensor")


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
        parameters: The parameters of the model by name.
        frames: The modules that are running, outermost first.
        used: Identities of the parameters that were handed to a function.
        tamed: Places whose output went into a function that takes any size.
        scales: Identities of the vectors of weights that scale or shift what a norm gives.
        read: Identities of the tensors that a function has computed something from.
        targets: Places whose output, which has no gradient, met something that has one.
        ran: Position of the first run of each module, by path.
        losses: Number of loss functions called so far.
        suspects: Identities of parameters without a gradient, of which to find out why.
    """

    paths: Mapping[int, str]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    tamed: set[str] = field(default_factory=set)
    scales: set[int] = field(default_factory=set)
    read: set[int] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    ran: dict[str, int] = field(default_factory=dict)
    losses: int = 0
    suspects: set[int] = field(default_factory=set)
    _registered: set[int] = field(default_factory=set)
    _stand_ins: dict[int, tuple[weakref.ref[Tensor], Parameter]] = field(default_factory=dict)
    _cuts: dict[int, list[Cut]] = field(default_factory=dict)
    _walks: int = 0
    _spreads: set[str] = field(default_factory=set)
    _rejoined: set[str] = field(default_factory=set)
    _read_out: set[str] = field(default_factory=set)
    _origins: dict[int, tuple[weakref.ref[Tensor], Origin]] = field(default_factory=dict)
    _marks: dict[int, tuple[weakref.ref[Tensor], Mark]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Return the path of the innermost running module; empty in the training step itself."""
        return next((frame.path for frame in reversed(self.frames) if frame.path), "")

    def begin(self, paths: Mapping[int, str], parameters: Mapping[str, Parameter]) -> None:
        """Start a look, with the modules and parameters that the model has now."""
        self.paths, self.parameters = paths, parameters
        self._registered = set(map(id, parameters.values()))

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

    def own(self, weight: Tensor) -> Tensor:
        """Return the parameter of the model that a weight stands in for; itself if for none.

        Where parameters are sharded over processes, a module computes with what was gathered of
        them, and holds that under the same name for as long as it runs.
        """
        if id(weight) in self._registered:
            return weight
        known = self._stand_ins.get(id(weight))
        if known is not None and known[0]() is weight:
            return known[1]
        for frame in reversed(self.frames):
            for name, value in frame.module._parameters.items():
                if value is weight and frame.path is not None:
                    path = f"{frame.path}.{name}" if frame.path else name
                    own = self.parameters.get(path)
                    if own is None or own is weight:
                        return weight
                    self._stand_ins[id(weight)] = weakref.ref(weight), own
                    return own
        return weight

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
        cut = line = ""
        before = next((mark for mark in marks if mark.cut), PLAIN)
        if any(tensor.requires_grad for tensor in outputs):
            self._rejoined.update(mark.line for mark in marks if mark.cut)
        else:
            cut, line = before.cut, before.line
            ends = any(tensor.requires_grad for tensor in inputs)
            if not cut and ends:
                cut = name if torch.is_grad_enabled() else "no_grad"
                line = user_line()
            if ends and self.suspects:
                fresh = name if torch.is_grad_enabled() else "no_grad"
                self.cut(fresh, inputs, line if cut == fresh else "")
        materials = {mark.material for mark in marks}
        material = None
        if not inputs:
            # Points drawn or laid out in the step are data, as much as those of a loader.
            made = name.removeprefix("new_").removesuffix("_like")
            plain = made in CONSTANTS or all(tensor.numel() == 1 for tensor in outputs)
            material = Material.CONSTANTS if plain else None
        elif None not in materials:
            weights = Material.WEIGHTS in materials
            material = Material.WEIGHTS if weights else Material.CONSTANTS
        for tensor in outputs:
            if cut or material:
                self._marks[id(tensor)] = weakref.ref(tensor), Mark(cut, material, line)
            else:
                self._marks.pop(id(tensor), None)  # written over in place

    def cut(self, name: str, inputs: Sequence[Tensor], line: str = "") -> None:
        """Note for the suspects behind some tensors that a function ended their graph."""
        found = {
            id(leaf)
            for tensor in inputs
            if tensor.requires_grad and self._affords(tensor)
            for leaf in map(self.own, leaves(tensor))
            if id(leaf) in self.suspects
        }
        if not found:
            return
        if name == "no_grad" and within("torch.utils.checkpoint"):
            name, line = "checkpoint", ""
        cut = Cut(name, line or user_line(), self.place)
        for suspect in found:
            self._cuts.setdefault(suspect, []).append(cut)

    def cut_of(self, parameter: Tensor) -> Cut | None:
        """Return what ended the graph behind a suspect.

        Best a cut whose result met a gradient again, then one that left the tensors of torch or
        kept a graph from being made; others may have been made for a log.
        """
        cuts = self._cuts.get(id(parameter), [])
        used = [cut for cut in cuts if cut.line in self._rejoined]
        taken = [cut for cut in cuts if cut.name in TAKEN or cut.line in self._read_out]
        return next(iter([*used, *taken, *cuts]), None)

    def read_out(self, name: str, tensor: Tensor) -> None:
        """Note that a function reads numbers out of a tensor, and its graph ends with them."""
        if tensor.requires_grad:
            self.cut(name, [tensor])
        elif self.marked(tensor).cut:
            self._read_out.add(self.marked(tensor).line)

    def _affords(self, tensor: Tensor) -> bool:
        """Tell whether to walk the graph behind a tensor: not behind every one that is logged."""
        self._walks += not tensor.is_leaf
        return tensor.is_leaf or self._walks <= MOST_WALKS

    def marked(self, tensor: Tensor) -> Mark:
        """Return what :meth:`mark` found out about a tensor."""
        if isinstance(tensor, Parameter):
            return Mark(material=Material.WEIGHTS)
        found = self._marks.get(id(tensor))
        return found[1] if found and found[0]() is tensor else PLAIN

    def scaled(self, name: str, weights: Iterable[Tensor]) -> None:
        """Notice vectors that scale or shift what a norm gives, also of one written by hand."""
        if name in SPREADS:
            self._spreads.add(self.place)
        by_hand = name in SCALINGS and self.place and self.place in self._spreads
        if name in NORMS or by_hand:
            self.scales.update(id(w) for w in weights if w.ndim == 1 and w.numel() > 1)

    def clear(self) -> None:
        """Forget everything about the step."""
        self.frames.clear()
        self.used.clear()
        self.tamed.clear()
        self.scales.clear()
        self._spreads.clear()
        self.read.clear()
        self.targets.clear()
        self.ran.clear()
        self.losses = 0
        self._cuts.clear()
        self._rejoined.clear()
        self._read_out.clear()
        self._walks = 0
        self._origins.clear()
        self._marks.clear()
