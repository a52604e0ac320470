"""How the gradient changes on its way back through the time steps of a recurrent layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_debug.observation import RecurrentFlow
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.statistics import dense, norm
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger

LAYERS = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
CELLS = frozenset(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"])
PARTS = 4
SHORTEST = 8
MOST_CELLS = 1024


class RecurrentTap(Listener):
    """Hears of recurrent layers and cells, and of the gradient that backward brings to each step.

    Layers are listened to at the sequence that they took, where it has a gradient; cells at the
    state that each step took. Layers in both directions have no first step.
    """

    names = LAYERS | CELLS

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ledger = Ledger()
        self._on = False
        self._layers: dict[str, list[Entry]] = {}
        self._cells: dict[str, dict[int, Entry]] = {}
        self._steps = 0

    def begin(self, ledger: Ledger, *, wanted: bool) -> None:
        """Start a look."""
        self._ledger = ledger
        self._on = wanted
        self._layers, self._cells, self._steps = {}, {}, 0

    def after(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Listen to what a layer took, or a step of a cell."""
        name = getattr(func, "__name__", "")
        if not self._on or len(args) < 2:
            return
        if name in CELLS:
            state = args[1][0] if isinstance(args[1], (tuple, list)) else args[1]
            if isinstance(state, Tensor) and state.requires_grad and self._steps < MOST_CELLS:
                self._hear_state(state, self._trace.place, self._steps)
            self._steps += 1
            return
        flags = [value for value in args if isinstance(value, bool)]
        # biases, training, both directions, batch first; packed sequences have no last
        if len(flags) == 4 and not flags[2] and args[0].ndim == 3 and args[0].requires_grad:
            self._hear_sequence(args[0], self._trace.place, axis=1 if flags[3] else 0)

    def observations(self) -> tuple[RecurrentFlow, ...]:
        """Return the gradients of this look, by layer, first steps first."""
        flows = {place: [e.value for e in entries] for place, entries in self._layers.items()}
        for place, cells in self._cells.items():
            values = [cells[step].value for step in sorted(cells)]
            flows[place] = [sum(part) / len(part) for part in _parts(values)]
        return tuple(
            RecurrentFlow(place=place, norms=tuple(norms))
            for place, norms in flows.items()
            if len(norms) == PARTS
        )

    def _hear_sequence(self, sequence: Tensor, place: str, axis: int) -> None:
        ledger, layers = self._ledger, self._layers

        def hear(gradient: Tensor) -> None:
            values = dense(gradient)
            if values is None or values.shape[axis] < SHORTEST or place in layers:
                return
            length = values.shape[axis] // PARTS
            starts = [0, length, 2 * length, values.shape[axis] - length]
            layers[place] = [ledger.note(norm(values.narrow(axis, s, length))) for s in starts]

        sequence.register_hook(hear)  # type: ignore[no-untyped-call]  # torch's

    def _hear_state(self, state: Tensor, place: str, step: int) -> None:
        ledger, cells = self._ledger, self._cells

        def hear(gradient: Tensor) -> None:
            values = dense(gradient)
            if values is not None:
                cells.setdefault(place, {})[step] = ledger.note(norm(values))

        state.register_hook(hear)  # type: ignore[no-untyped-call]  # torch's


def _parts(values: Sequence[float]) -> list[Sequence[float]]:
    length = len(values) // PARTS
    if len(values) < SHORTEST:
        return []
    ends = [0, length, 2 * length, len(values) - length, len(values)]
    return [values[start:end] for start, end in itertools.pairwise(ends)]
