"""Forward passes that keep nothing for a backward pass, and how much they would have kept."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_debug.taps.statistics import tensors_in

# What a step may keep for its backward pass on the samples that an experiment takes. In float64
# that is 64 MB, and a forward pass of a second or so; an accelerator has the time and the memory.
MOST_ELEMENTS = 8_000_000
ON_ACCELERATORS = 16


class Unsaved:
    """Keeps nothing that a backward pass would need, while it is entered.

    Results ask for gradients as ever, so a step goes the way that it always goes; only who then
    asks for a gradient gets none.

    Attributes:
        elements: Of the tensors that were not kept; weights are there in any case.
        missed: Whether a backward pass has asked for one.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.missed = False
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self) -> Unsaved:
        """Begin."""
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Keep again what is needed."""
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> None:
        base = tensor if tensor._base is None else tensor._base
        if not (base.is_leaf and base.requires_grad):
            self.elements += tensor.numel()

    def _unpack(self, nothing: None) -> Tensor:
        self.missed = True
        raise RuntimeError("nothing was kept for a backward pass")


class Load:
    """How much a training step keeps for its backward pass, as far as it has been seen.

    Counted, and not timed, so that the same samples are taken each time.
    """

    def __init__(self) -> None:
        self._share = 0.0

    def note(self, kept: int, given: int) -> None:
        """Take in that a step which was given so many elements keeps so many."""
        self._share = kept / given

    def samples(self, batch: Any, size: int, most: int, fewest: int) -> int:
        """Return how many samples of a batch to take: fewer where a step keeps much for each.

        Args:
            batch: What the step gets.
            size: The number of samples in it.
            most: To take in any case at most.
            fewest: To take in any case at least, if there are so many.
        """
        each = self._share * elements(batch) / max(size, 1)
        fast = any(tensor.device.type != "cpu" for tensor in tensors_in(batch))
        allowed = MOST_ELEMENTS * (ON_ACCELERATORS if fast else 1)
        fitting = int(allowed / each) if each else most
        return min(size, most, max(fewest, fitting))


def elements(batch: Any) -> int:
    """Return the number of elements that the tensors of a batch hold."""
    return sum(tensor.numel() for tensor in tensors_in(batch))
