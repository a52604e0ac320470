"""What both sides of a loss are like, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_debug.observation import ClassCounts, Ends, Predictions, Targets
from lightning_debug.taps.loss_heard import Heard
from lightning_debug.taps.loss_makers import maker
from lightning_debug.taps.statistics import bare, dense, sample, stride_for
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Entry, Ledger

ELEMENTS = 65_536
ROWS = 4096
FEWEST_ROWS = 16
DISTINCT_SAMPLE = 1024
MOST_CLASSES = 64
SEQUENCES = 64
MOST_PAIRED = 256
LONGEST = 1024
FEWEST_STEPS = 4
CLEARLY_POSITIVE = 0.1
# What a function can give: lowest and highest.
RANGES = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exp": (0.0, math.inf),
}
SLACK = 0.05
Row = list[Entry]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What the batch says of the targets.

    Attributes:
        size: Number of samples; 0 if that is not known.
        integers: Its integer tensors.
        inputs: Its first float tensor with several numbers a sample, if there is one.
    """

    size: int = 0
    integers: Sequence[Tensor] = ()
    inputs: Tensor | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> BatchShape:
        """Return what the tensors of a batch say; most of them have the samples on axis 0."""
        tensors = [t for t in tensors if not t.is_nested and t.layout is torch.strided]
        sizes = [t.shape[0] for t in tensors if t.ndim]
        size = max(set(sizes), key=sizes.count) if sizes else 0
        integers = [t for t in tensors if not t.is_floating_point() and not t.is_complex()]
        wide = (t for t in tensors if t.is_floating_point() and t.ndim > 1 and t.shape[0] == size)
        return cls(size, integers, next((t for t in wide if t.numel() > size), None))


@dataclass
class Features:
    """The numbers of one loss call, on their way to the host; it keeps no tensor."""

    known: dict[str, Any]
    prediction: Predictions
    target: Targets
    floating: bool
    moments: tuple[Row, Row] = field(default_factory=lambda: ([], []))
    rows: Row = field(default_factory=list)
    values: Row = field(default_factory=list)
    order: Row = field(default_factory=list)
    counts: Row = field(default_factory=list)
    weights: Row = field(default_factory=list)
    ends: list[tuple[str, Row]] = field(default_factory=list)

    @classmethod
    def of(cls, heard: Heard, trace: Trace, batch: BatchShape, ledger: Ledger) -> Features:
        """Measure a call."""
        result = cls(
            known={
                "kind": heard.kind,
                "reduction": heard.reduction,
                "weighted": heard.weight is not None,
                "ignored": heard.ignored,
            },
            prediction=_known_of_prediction(heard.prediction),
            target=_known_of_target(heard.target, trace, batch),
            floating=heard.target.is_floating_point() and heard.target.numel() > 1,
        )
        prediction, values = dense(heard.prediction), plain(heard.target)
        if prediction is None or values is None:
            return result
        note = ledger.note_row
        result.moments = note(_moments(prediction)), note(_moments(values))
        result.values = note(_targets(values, result.prediction.maker, batch))
        rows, labels = _rows(heard, prediction, values)
        if rows is not None:
            result.rows = note(_distributions(rows, prediction.dtype, labels, heard.ignored))
            counts = _counts(heard, rows, labels)
            result.counts = [] if counts is None else note(counts)
            weights = heard.class_weights
            if counts is not None and weights is not None and 4 * weights.numel() == len(counts):
                result.weights = note(weights.detach().to(torch.float32))
        if heard.kind == "regression" and result.target.per_sample:
            order = _order(values, batch)
            result.order = [] if order is None else note(order)
        for side, table in _sequences(heard, values, batch):
            result.ends.append((side, note(_ends(table, heard.weight))))
        return result

    def fields(self) -> dict[str, Any]:
        """Return the numbers as fields of a loss call."""
        low, high, mean, std = _numbers(self.moments[0], 4)
        distributions, mixed, normaliser = _numbers(self.rows, 3)
        prediction = replace(
            self.prediction,
            low=low,
            high=high,
            mean=mean,
            std=std,
            distributions=distributions,
            mixed=mixed,
            normaliser=normaliser,
        )
        low, high, mean, std = _numbers(self.moments[1], 4)
        whole, distinct, distributions, several, beyond, cost, ids = _numbers(self.values, 7)
        clusters, order = _numbers(self.order, 2)
        target = replace(
            self.target,
            clusters=clusters,
            order=order,
            low=low,
            high=high,
            mean=mean,
            std=std,
            whole=whole == 1.0,
            distinct=0 if math.isnan(distinct) else int(distinct),
            distributions=distributions,
            several=several,
            beyond=beyond,
            cost=cost,
            ids=ids == 1.0,
        )
        return self.known | {
            "target_mean": mean if self.floating else math.nan,
            "target_std": std if self.floating else math.nan,
            "prediction": prediction,
            "target": target,
            "counts": self._counts(),
            "ends": tuple(_end(side, row) for side, row in self.ends),
        }

    def _counts(self) -> ClassCounts:
        classes = len(self.counts) // 4
        numbers = [entry.value for entry in self.counts]
        parts = [tuple(numbers[i * classes : (i + 1) * classes]) for i in range(4)]
        return ClassCounts(
            targets=parts[0],
            correct=parts[1],
            own=parts[2],
            other=parts[3],
            weights=tuple(entry.value for entry in self.weights),
        )


def _known_of_prediction(prediction: Tensor) -> Predictions:
    made = maker(prediction)
    return Predictions(
        shape=tuple(prediction.shape), maker=made.name, width=made.width, whole=made.whole
    )


def _known_of_target(target: Tensor, trace: Trace, batch: BatchShape) -> Targets:
    return Targets(
        shape=tuple(target.shape),
        dtype="float" if target.is_floating_point() else "integer",
        made=target.requires_grad or trace.origin(target) is not None,
        per_sample=0 < target.numel() == batch.size,
    )


def _end(side: str, row: Row) -> Ends:
    symbol, share, inside, rows, varied, next_share, weight = _numbers(row, 7)
    return Ends(
        side=side,
        symbol=symbol,
        share=share,
        inside=inside,
        rows=rows,
        varied=varied,
        next_share=next_share,
        weight=weight,
    )


def plain(tensor: Tensor) -> Tensor | None:
    """Return the values of a target of any dtype, or None where it has none to measure."""
    if tensor.is_floating_point() or tensor.is_complex():
        return dense(tensor)
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    special = tensor.is_nested or tensor.is_quantized or tensor.device.type == "meta"
    if special or tensor.layout is not torch.strided or tensor.numel() == 0:
        return None
    try:
        tensor.data_ptr()
    except RuntimeError:
        return None
    return bare(tensor)


def _numbers(row: Row, size: int) -> list[float]:
    return [entry.value for entry in row] if row else [math.nan] * size


def _moments(values: Tensor) -> Tensor:
    """Return the lowest, the highest, the mean and the standard deviation."""
    some = sample(values, ELEMENTS).to(torch.float32)
    return torch.stack([some.amin(), some.amax(), some.mean(), some.std(correction=0)])


def _targets(values: Tensor, made_by: str, batch: BatchShape) -> Tensor:
    """Return what kind of numbers the targets are; see :class:`Targets`."""
    some = sample(values, DISTINCT_SAMPLE).to(torch.float32)
    ordered = some.sort().values
    nothing = some.new_full((), math.nan)
    distributions = several = beyond = cost = nothing
    if values.is_floating_point() and values.ndim > 1:
        rows = _class_rows(values)
        sums = rows.sum(dim=1)
        distributions = _share(_ones(sums, values.dtype) & (rows >= -1e-6).all(dim=1))
        several = _share(sums > 1.5)
    if made_by in RANGES:
        low, high = RANGES[made_by]
        slack = SLACK * some.std(correction=0)
        beyond = _share((some < low - slack) | (some > high + slack))
        cost = (some - some.clamp(low, high)).square().mean() / some.var(correction=0)
    return torch.stack(
        [
            _share(some == some.round()),
            (ordered[1:] != ordered[:-1]).sum(dtype=torch.float32) + 1.0,
            distributions,
            several,
            beyond,
            cost,
            _ids(values, batch),
        ]
    )


def _ids(values: Tensor, batch: BatchShape) -> Tensor:
    """Return 1 where the targets are an integer tensor of the batch, cast to float."""
    result = torch.zeros((), device=values.device)
    if values.is_floating_point():
        for integers in batch.integers:
            if integers.numel() == values.numel() and integers.device == values.device:
                same = (integers.reshape(-1) == values.reshape(-1)).all()
                result = torch.maximum(result, same.to(torch.float32))
    return result


def _order(values: Tensor, batch: BatchShape) -> Tensor | None:
    """Return whether inputs of one target lie close together, and how they follow its size.

    The distance between inputs of different targets over that of equal targets; and among the
    former, the correlation of the distance with the difference of the targets.
    """
    inputs = dense(batch.inputs)
    if inputs is None or inputs.shape[0] != values.numel() or inputs.device != values.device:
        return None
    rows = inputs[:MOST_PAIRED].flatten(1)
    rows = rows[:, :: stride_for(rows.shape[1], MOST_PAIRED)].to(torch.float32)
    targets = values.reshape(-1)[:MOST_PAIRED].to(torch.float32)
    if len(rows) < FEWEST_ROWS:
        return None
    distance, step = torch.cdist(rows, rows), (targets[:, None] - targets).abs()
    other = (step > 0).to(torch.float32)
    same = 1.0 - other - torch.eye(len(rows), device=rows.device)
    pairs = other.sum()
    far, near = (distance * other).sum() / pairs, (distance * same).sum() / same.sum()
    away, ahead = (distance - far) * other, (step - (step * other).sum() / pairs) * other
    size = ((away**2).sum() * (ahead**2).sum()).sqrt()
    return torch.stack([far / near, (away * ahead).sum() / size])


def _share(mask: Tensor) -> Tensor:
    return mask.to(torch.float32).mean()


def _class_rows(values: Tensor) -> Tensor:
    """Return some rows along axis 1, which is that of the classes, shape ``(rows, classes)``."""
    if values.ndim < 2:
        return values.reshape(1, -1).to(torch.float32)
    table = values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)
    batch, positions = _strides(table.shape)
    part = table[::batch, :, ::positions]
    return part.movedim(1, 2).reshape(-1, table.shape[1]).to(torch.float32)


def _strides(shape: Sequence[int]) -> tuple[int, int]:
    """Return the strides over samples and positions that leave few enough rows."""
    samples, classes, positions = shape
    most = min(ROWS, max(FEWEST_ROWS, ELEMENTS // max(1, classes)))
    stride = stride_for(positions, max(1, most // samples)) if positions > 1 else 1
    left = samples * -(-positions // stride)
    return (stride_for(samples, most) if left > most and samples > most else 1), stride


def _rows(heard: Heard, prediction: Tensor, values: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return some rows of the prediction along its classes, and their labels if it has some."""
    if heard.function == "ctc_loss":
        return _class_rows(prediction.movedim(-1, min(1, prediction.ndim - 1))), None
    if heard.kind not in ("logits", "binary-logits", "log-probabilities", "probabilities"):
        return None, None
    if heard.kind.startswith(("binary", "prob")) and prediction.numel() in prediction.shape:
        hard = values.numel() == prediction.numel()
        labels = sample(values, ROWS) if hard else None
        return sample(prediction, ROWS).to(torch.float32).unsqueeze(1), labels
    rows = _class_rows(prediction)
    if prediction.ndim < 2 or values.is_floating_point():
        return rows, None
    if values.shape != prediction.shape[:1] + prediction.shape[2:]:
        return rows, None
    table = values.flatten(1) if values.ndim > 1 else values.unsqueeze(1)
    batch, positions = _strides((prediction.shape[0], prediction.shape[1], table.shape[1]))
    return rows, table[::batch, ::positions].reshape(-1)


def _ones(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell which sums of numbers of a format are 1, but for rounding."""
    return (sums - 1.0).abs() < max(1e-3, torch.finfo(dtype).eps)


def _distributions(
    rows: Tensor, dtype: torch.dtype, labels: Tensor | None, ignored: int | None
) -> Tensor:
    """Return which share of rows are probabilities, which have both signs, and logsumexp."""
    probable = _ones(rows.sum(dim=1), dtype) & (rows >= 0.0).all(dim=1)
    mixed = (rows.amax(dim=1) > CLEARLY_POSITIVE) & (rows.amin(dim=1) < -1e-6)
    measures = torch.stack(
        [probable.to(torch.float32), mixed.to(torch.float32), rows.logsumexp(dim=1).abs()]
    )
    if labels is None or ignored is None:
        return measures.mean(dim=1)
    counted = (labels != ignored).to(torch.float32)
    return torch.where(counted > 0, measures, 0.0).sum(dim=1) / counted.sum()


def _counts(heard: Heard, rows: Tensor, labels: Tensor | None) -> Tensor | None:
    """Return, for each class, its targets, the correct ones, and its probability on both."""
    classes = rows.shape[1]
    if labels is None or classes > MOST_CLASSES:
        return None
    if classes == 1:
        odds = rows.squeeze(1)
        positive = odds if heard.kind == "probabilities" else odds.sigmoid()
        probabilities = torch.stack([1.0 - positive, positive], dim=1)
        labels, classes = (labels > 0.5).long(), 2
    else:
        probabilities = rows.softmax(dim=1)
    valid = (labels >= 0) & (labels < classes)
    if heard.ignored is not None:
        valid &= labels != heard.ignored
    weight = valid.to(torch.float32)
    labels = labels.clamp(0, classes - 1).long()
    right = (probabilities.argmax(dim=1) == labels).to(torch.float32) * weight
    own = probabilities.gather(1, labels[:, None]).squeeze(1) * weight
    table = rows.new_zeros(3, classes)
    table.index_add_(1, labels, torch.stack([weight, right, own]))
    every = (probabilities * weight[:, None]).sum(dim=0)
    others = (weight.sum() - table[0]).clamp_min(1.0)
    return torch.cat(
        [
            table[0],
            table[1],
            table[2] / table[0].clamp_min(1.0),
            (every - table[2]) / others,
        ]
    )


def _sequences(heard: Heard, values: Tensor, batch: BatchShape) -> list[tuple[str, Tensor]]:
    """Return the targets as sequences ``(N, T)``, if they are: from both ends, in both layouts."""
    if heard.kind not in ("logits", "log-probabilities") or values.is_floating_point():
        return []
    found = []
    for table in _tables(heard.target, values, batch):
        if min(table.shape) >= FEWEST_STEPS and table.shape[1] <= LONGEST:
            part = table[:: -(-table.shape[0] // SEQUENCES)]
            found += [("end", part), ("start", part.flip(1))]
    return found


def _tables(target: Tensor, values: Tensor, batch: BatchShape) -> list[Tensor]:
    """Return targets as ``(N, T)`` for either layout, also where they were flattened."""
    base = target._base
    if values.ndim == 2:
        return [values, values.T]
    if values.ndim != 1:
        return []
    if base is not None and base.ndim == 2 and base.numel() == values.numel():
        return [values.view(base.shape), values.view(base.shape).T]
    for integers in batch.integers:
        if integers.ndim == 2:
            rows, length = integers.shape
            if values.numel() % rows == 0 and length - 2 <= values.numel() // rows <= length:
                return [values.view(rows, -1), values.view(-1, rows).T]
    return []


def _ends(table: Tensor, weight: Tensor | None) -> Tensor:
    """Return how the symbol that most sequences end with is spread; see :class:`Ends`."""
    symbol = table[:, -1].mode().values
    here = table == symbol
    inside = here.flip(1).to(torch.float32).cumprod(dim=1)
    runs = inside.sum(dim=1)
    count = here.sum(dtype=torch.float32)
    fillers = -1000 - torch.arange(table.numel(), device=table.device).view_as(table)
    others = torch.where(here, fillers, table.long()).flatten()
    following = others == others.mode().values
    worth = torch.ones((), device=table.device)
    if weight is not None and weight.ndim == 1:
        worth = weight[symbol.clamp(0, weight.numel() - 1)].to(torch.float32)
    return torch.stack(
        [
            symbol.to(torch.float32),
            count / table.numel(),
            inside.sum() / count.clamp_min(1.0),
            _share(runs >= 2.0),
            runs.std(correction=0),
            _share(following),
            worth,
        ]
    )
