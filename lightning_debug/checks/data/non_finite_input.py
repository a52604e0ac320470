"""NaN in the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import Batch, BatchTensor


@dataclass(kw_only=True)
class NonFiniteInput(Check):
    """A batch holds NaN or infinity, and the loss or the gradients with it.

    Why: one NaN in one sample makes the loss NaN, and the step writes it into all weights. Masking
    after the loss does not help: the gradient of a NaN that is multiplied by 0 or left out of a
    mean is still NaN.

    Silent when: the loss and the gradients stay finite all the same, because the step fills
    missing values in or masks them before the loss; the tensor is an attention mask of 0 and
    minus infinity.

    Between the looks, batches are searched for such values only once a loss was not finite.
    """

    severity = Severity.ERROR
    fix = (
        "Drop or fill such samples in the dataset: x = torch.nan_to_num(x), or"
        " mask = y.isfinite() and loss(prediction[mask], y[mask]): before the loss, not after."
    )

    _harmless: set[str] = field(default_factory=set, init=False, repr=False)

    def on_batch(self, obs: Batch) -> Iterator[Finding]:
        """Find tensors that are not finite in a step that was ruined."""
        bad = [tensor for tensor in obs.tensors if tensor.bad]
        self._harmless.update(t.path for t in bad if not obs.harmful or _is_mask(t))
        for tensor in bad:
            if obs.harmful and tensor.path not in self._harmless:
                values = "value is" if tensor.bad == 1 else "values are"
                message = (
                    f"{tensor.bad} {values} NaN or infinite in {tensor.path} of batch {obs.index}"
                    f" in epoch {obs.epoch}, and the loss or its gradient became so too."
                )
                yield self.finding(
                    obs, message, where=tensor.path, values=tensor.bad, batch=obs.index
                )
        found = {tensor.path for tensor in bad}
        for broken in obs.broken:
            if broken.path not in self._harmless | found:
                found.add(broken.path)
                message = (
                    f"{broken.path} of batch {broken.index} in epoch {broken.epoch} holds NaN or"
                    " infinity. The loss is not finite, and this is where it can come from."
                )
                yield self.finding(obs, message, where=broken.path, batch=broken.index)


def _is_mask(tensor: BatchTensor) -> bool:
    """Tell whether a tensor is added to attention scores: 0, or minus infinity."""
    return tensor.low == -math.inf and tensor.high <= 0.0
