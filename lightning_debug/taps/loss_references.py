"""What a loss gives on constant predictions, and what in a loss moves it away from that."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import Module

# What only arranges numbers or multiplies matrices; a factor goes through it.
PASSES = frozenset(
    f"{name}Backward0"
    for name in ("Mm", "Bmm", "T", "Transpose", "Permute", "View", "UnsafeView", "Unsqueeze")
)
PASSED = 12
# What leaves each number that a layer gave in its place, and lets its bias set the level of each.
KEEPS = frozenset(
    f"{name}Backward0"
    for name in (
        "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "ToCopy", "Clone", "Alias",
        "Sigmoid", "Tanh", "Relu", "LeakyRelu", "Elu", "Softplus",
    )
)  # fmt: skip

# The constant logit, log-probability or probability that says nothing, for each kind of loss.
UNIFORM: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": torch.zeros_like,
    "nll_loss": lambda p: torch.full_like(p, -math.log(p.shape[min(1, p.ndim - 1)])),
    "binary_cross_entropy": lambda p: torch.full_like(p, 0.5),
    "binary_cross_entropy_with_logits": torch.zeros_like,
    "soft_margin_loss": torch.zeros_like,
    "multilabel_soft_margin_loss": torch.zeros_like,
    "multi_margin_loss": torch.zeros_like,
    "multilabel_margin_loss": torch.zeros_like,
}


def log_mean(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the logarithm of the mean probability of the target, in the prediction's shape.

    That is what kl_div gets from a constant guess, over whichever axes probabilities sum to 1.
    """
    mean = torch.where(target.amax() <= 0.0, target.exp().mean(), target.mean())
    return torch.ones_like(prediction) * mean.log().to(prediction.dtype)


def log_prior(prediction: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the logarithm of the share of each class in the batch, in the prediction's shape."""
    valid = labels.clamp(0, classes - 1)
    shares = torch.zeros(classes, device=labels.device, dtype=torch.float32)
    shares.index_add_(0, valid, torch.ones_like(valid, dtype=torch.float32))
    prior = ((shares + 1e-3) / (shares + 1e-3).sum()).log().to(prediction.dtype)
    shape = [1, classes] + [1] * (prediction.ndim - 2)
    return prior.view(shape).expand_as(prediction)


def margin(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the true class's logit lies below the others.

    In standard errors, and in standard deviations of the logits.

    Before training a network knows nothing of the labels, so this is noise around 0, unless the
    loss lowers the true logit on purpose (ArcFace, CosFace). Logits count from the mean of their
    class over the batch, and classes count once: whole classes start high or low by chance.
    """
    classes = rows.shape[1]
    rows, labels = rows[:4096].to(torch.float32), labels[:4096]
    counted = (labels >= 0) & (labels < classes)  # others are ignored by the loss
    weight = counted.to(torch.float32)
    labels = labels.clamp(0, classes - 1)
    rows = rows - (rows * weight[:, None]).sum(dim=0) / weight.sum().clamp_min(1.0)
    true = rows.gather(1, labels[:, None]).squeeze(1)
    gap = (rows.sum(dim=1) - true) / (classes - 1) - true
    gaps, counts = rows.new_zeros(classes), rows.new_zeros(classes)
    gaps.index_add_(0, labels, gap * weight)
    counts.index_add_(0, labels, weight)
    present = (counts > 0).to(torch.float32)
    gaps = gaps / counts.clamp_min(1.0)
    seen = present.sum().clamp_min(1.0)
    mean = (gaps * present).sum() / seen
    error = torch.sqrt(((gaps - mean) ** 2 * present).sum()) / seen + 1e-12
    spread = ((rows**2 * weight[:, None]).sum() / (weight.sum().clamp_min(1.0) * classes)).sqrt()
    return mean / error, mean / (spread + 1e-12)


def shared_axes(prediction: Tensor) -> tuple[int, ...]:
    """Return the axes of a prediction along which the last bias gives the same; none if unknown.

    A linear layer that makes a whole sample has a bias for each output, so only samples share it.
    One that runs along a sequence has one for each feature, a convolution for each channel. What
    differs from place to place is then more than a bias can give, though layers before may give
    it: the constants that count are those that any such model can make.
    """
    node = prediction.grad_fn
    for _ in range(PASSED):
        if node is None or node.name() not in KEEPS:
            break
        node = node.next_functions[0][0]
    if node is None or not prediction.ndim:
        return ()
    made, shape = _made(node), tuple(prediction.shape)
    if node.name() == "ConvolutionBackward0":
        biased = made == shape and shape[1] > 1 and _leaf(node.next_functions[2][0]) is not None
        return (0, *range(2, len(shape))) if biased else ()
    if not made or not _adds_a_row(node, made[-1]) or prediction.numel() != math.prod(made):
        return ()
    if shape[0] == math.prod(made[:-1]):
        return (0,)
    return tuple(range(len(shape) - 1)) if shape[-1] == made[-1] else ()


def _adds_a_row(node: Node, width: int) -> bool:
    """Tell whether a node adds a trained number to each of several columns, as a linear layer."""
    if node.name() not in ("AddmmBackward0", "AddBackward0") or width < 2:
        return False
    leaves = [_leaf(before) for before, _ in node.next_functions]
    return any(leaf is not None and leaf.shape == (width,) for leaf in leaves)


def _made(node: Node) -> tuple[int, ...]:
    """Return the shape of what a node of the graph made."""
    metadata = getattr(node, "_input_metadata", ())
    return tuple(int(size) for size in metadata[0].shape) if metadata else ()


def _leaf(node: Node | None) -> Tensor | None:
    """Return the trained tensor that a node stands for, in whatever format it is used."""
    while node is not None and node.name() == "ToCopyBackward0":
        node = node.next_functions[0][0]
    leaf = getattr(node, "variable", None)
    return leaf if isinstance(leaf, Tensor) else None


def temperature(logits: Tensor) -> Tensor | None:
    """Return the constant factor that the logits were multiplied with last, if there is one.

    Also where a side of the product that made them was: the similarities of two sets of vectors.
    """
    todo = [logits.grad_fn]
    for node in todo:  # grows on the way
        factor = _factor(node) if node is not None else None
        if factor is not None:
            return factor
        if node is not None and node.name() in PASSES and len(todo) < PASSED:
            todo.extend(after for after, _ in node.next_functions)
    return None


def _factor(node: Node) -> Tensor | None:
    """Return the number that a node of the graph multiplies with; None if it does not."""
    sides = {"MulBackward0": ("_saved_other", "_saved_self"), "DivBackward0": ("_saved_other",)}
    for side in sides.get(node.name(), ()):
        saved = getattr(node, side, None)
        if isinstance(saved, Tensor) and saved.numel() == 1:
            factor = saved.detach()
            return factor if node.name() == "MulBackward0" else 1.0 / factor
    return None


def on_zeros(module: Module, args: Sequence[Any], prediction: Tensor, out: Tensor) -> Tensor:
    """Return what a criterion gives on zeros for the prediction; nan where that tells nothing.

    It does where each sample has a loss of its own. Losses between samples (contrastive, triplet,
    decorrelation) give nothing that a constant could be held against. Such a loss of a whole batch
    is neither between the losses of its halves nor their sum.
    """
    nothing = torch.full_like(out.detach(), float("nan"))
    n = prediction.shape[0] if prediction.ndim else 0
    tensors = [value for value in args if isinstance(value, Tensor)]
    if n < 2 or len(tensors) < 2 or any(t.ndim == 0 or t.shape[0] != n for t in tensors):
        return nothing

    def swap(value: Any, part: slice) -> Any:
        return value[part] if isinstance(value, Tensor) else value

    zeros = tuple(torch.zeros_like(prediction) if value is prediction else value for value in args)
    half = slice(0, n // 2), slice(n // 2, n)
    calls = [zeros, *(tuple(swap(value, part) for value in args) for part in half)]
    results = _on_copies(module, calls, prediction.device)
    if results is None:
        return nothing
    zero, *halves = results
    low, high, whole = torch.minimum(*halves), torch.maximum(*halves), out.detach()
    slack = 1e-3 * whole.abs() + 1e-6
    alone = (whole >= low - slack) & (whole <= high + slack)
    alone = alone | ((whole - low - high).abs() <= slack)
    return torch.where(alone, zero, nothing)


def _on_copies(
    module: Module, calls: Sequence[Sequence[Any]], device: torch.device
) -> list[Tensor] | None:
    """Call copies of a module; None if one fails.

    On copies, with the random state put back, because it may count, remember or draw.
    """
    devices = [device] if device.type == "cuda" else []
    drawn = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            results = [copy.deepcopy(module)(*args) for args in calls]
    except Exception:  # the user's code refuses constants: there is no reference
        return None
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
    scalars = all(isinstance(result, Tensor) and result.numel() == 1 for result in results)
    return [result.reshape(()) for result in results] if scalars else None
