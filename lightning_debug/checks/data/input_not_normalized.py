"""Raw scales at the first layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from lightning_debug.check import Check
from lightning_debug.finding import Finding
from lightning_debug.observation import Batch, Column, DataEntry, DataFlow


@dataclass(kw_only=True)
class InputNotNormalized(Check):
    """What enters the first layer with weights is far from zero mean and unit spread.

    Why: fresh weights expect inputs of about unit size. Large inputs give large outputs, large
    gradients and saturated units; a column a hundred times larger than the others hides them; an
    offset much larger than the spread hides the differences between samples.

    Silent when: the data are normalised on the way (x / 255 in the step counts); a norm layer or
    an embedding comes first, or a norm follows the layer at once; inputs are in 0 to 1, one-hot,
    counts, masks or sparse; the weights are made for this scale, as those of a trained network.

    Source: LeCun et al., Efficient BackProp (1998), section 4.3.

    Args:
        scale: Largest healthy root mean square of what enters.
        drive: Output that the weights make of it (rms), from which on a scale does harm.
        ratio: Largest healthy root mean square of a column over that of a usual column.
        share: Part of the output that such a column has to make up.
        offset: Largest healthy mean of the columns over their spread.
        large_offset: Mean from which on an offset matters.
        small: Smallest healthy root mean square of dense inputs.
        small_norm: Smallest healthy norm of one sample; many small columns add up.
        patience: Looks in a row.
    """

    fix = (
        "Normalise the inputs with the mean and standard deviation of the training set:"
        " x = (x - mean) / std (pixels: x / 255.0 or torchvision.transforms.Normalize), or put"
        " nn.BatchNorm1d(features) before the first layer."
    )

    scale: float = 10.0
    drive: float = 3.0
    ratio: float = 50.0
    share: float = 0.5
    offset: float = 10.0
    large_offset: float = 3.0
    small: float = 0.01
    small_norm: float = 0.1
    patience: int = 3
    _readable: bool = field(default=False, init=False, repr=False)

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Remember whether the tensors of the batch are known."""
        self._readable = self._readable or bool(obs.tensors)
        yield from ()

    def on_data_flow(self, obs: DataFlow) -> Iterator[Finding]:
        """Judge the data where they enter a layer."""
        for entry in obs.entries:
            # What the step makes up itself, such as positions or noise, is not the data.
            if not entry.derived and self._readable:
                continue
            varying = [column for column in entry.columns if column.std > 0.0]
            if varying and all(math.isfinite(column.rms) for column in varying):
                yield from self._judge(obs, entry, varying)

    def _judge(
        self, obs: DataFlow, entry: DataEntry, varying: Sequence[Column]
    ) -> Iterator[Finding]:
        part = "channel" if entry.kind.startswith("conv") else "column"
        worst = max(varying, key=lambda column: column.rms)
        usual = median([_size(c) for c in varying if c is not worst] or [worst.rms])
        size = math.sqrt(sum(column.rms**2 for column in varying) / len(varying))
        output = self._output(entry, varying)
        message = ""
        shown = f"{part} {worst.index}: mean {worst.mean:.3g}, standard deviation {worst.std:.3g}"
        if self._stands_out(worst, usual, varying):
            message = (
                f"{part} {worst.index} has a mean of {worst.mean:.3g} and a standard deviation of"
                f" {worst.std:.3g}, while a usual {part} has a size of {usual:.3g} (root mean"
                " square). It drowns the others."
            )
        elif entry.normalized:
            return
        elif size > self.scale and not output < self.drive:
            message = f"its root mean square is {size:.3g} where about 1 is expected ({shown})."
        elif self._far_from_zero(varying) and not output < self.drive / 2.0:
            message = f"the values lie far from zero for how much they vary ({shown})."
        elif self._is_faint(entry, varying, size) and not output > self.small:
            message = (
                f"its root mean square is only {size:.2g} where about 1 is expected, so the first"
                " layer hardly sees it."
            )
        if message:
            message = f"What enters {entry.place} is not normalised: {message}"
            yield self.finding(obs, message, where=entry.place, rms=size, output=output)

    def _stands_out(self, worst: Column, usual: float, varying: Sequence[Column]) -> bool:
        if worst.rms < self.scale or worst.rms < self.ratio * usual:
            return False
        pulls = [(column.pull * column.rms) ** 2 for column in varying]
        whole = sum(pulls)
        return not (worst.pull * worst.rms) ** 2 < self.share * whole

    def _far_from_zero(self, varying: Sequence[Column]) -> bool:
        wide = [column for column in varying if not column.binary]
        return (
            2 * len(wide) > len(varying)
            and median(abs(column.mean) / column.std for column in wide) > self.offset
            and median(abs(column.mean) for column in wide) > self.large_offset
        )

    def _is_faint(self, entry: DataEntry, varying: Sequence[Column], size: float) -> bool:
        """Tell whether the input is tiny, other than by being sparse or of very many columns."""
        dense = median(column.zeros for column in varying) < self.share
        norm = size * math.sqrt(entry.width)
        return dense and size < self.small and norm < self.small_norm

    def _output(self, entry: DataEntry, varying: Sequence[Column]) -> float:
        """Return the root mean square of what the weights make of the input."""
        square = sum((column.pull * column.rms) ** 2 for column in varying)
        return math.sqrt(square * entry.width / len(entry.columns))


def _size(column: Column) -> float:
    """Return the size of a column; a flag or one of a one-hot vector has the size of its range."""
    return 1.0 if column.binary else column.rms
