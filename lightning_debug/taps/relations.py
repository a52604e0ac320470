"""How the samples of a batch relate to each other; all of them as rows of a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 4


def neighbours(features: Tensor, alike: Tensor) -> Tensor:
    """Compare how alike each sample is to its nearest neighbour with how alike any two are."""
    square = features.square().sum(dim=1)
    distance = square[:, None] + square[None, :] - 2.0 * features @ features.T
    nearest = distance.fill_diagonal_(math.inf).argmin(dim=1)
    return compare(alike.gather(1, nearest[:, None]).squeeze(1), alike)


def standardised(rows: Tensor) -> Tensor:
    """Return the rows with columns of mean 0 and spread 1."""
    return (rows - rows.mean(dim=0)) / (rows.std(dim=0, correction=0) + 1e-12)


def adjacent(rows: Tensor, shape: torch.Size, alike: Tensor) -> Tensor:
    """Return how much neighbours differ, over how much any two samples do.

    Only pairs that ``alike`` allows count, if there are some: sorted labels make neighbours alike
    as well. A window over a series that moves on by one step is the same values, shifted.
    """
    rows = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    centred = rows - rows.mean(dim=0)
    square = centred.square().sum(dim=1)
    distances = square[:, None] + square[None, :] - 2.0 * centred @ centred.T
    few = alike.diagonal(1).sum() < LEAST
    weights = (alike | few).to(rows.dtype)
    weights = weights - torch.diag(weights.diagonal())
    beside = weights.diagonal(1)
    any_two = (distances * weights).sum() / weights.sum()
    neighbours = (rows[1:] - rows[:-1]).square().sum(dim=1)
    differing = (neighbours * beside).sum() / beside.sum()
    if len(shape) > 1 and shape[1] > LEAST and rows.shape[1] == shape[1:].numel():
        steps = rows.reshape(len(rows), shape[1], -1)
        shifted = (steps[1:, :-1] - steps[:-1, 1:]).square().sum(dim=(1, 2)).mean()
        differing = torch.minimum(differing, shifted)
    return torch.where(any_two > 0, differing / any_two, torch.full_like(any_two, math.nan))


def label_likeness(first: Tensor, second: Tensor, *, classes: bool) -> Tensor:
    """Return how alike two columns of labels are, pair by pair: equal, or else how near."""
    if classes:
        return (first == second.T).to(first.dtype)
    return -(first - second.T).abs()


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of each sample of one batch with each of another."""
    mean = (first.mean(dim=0) + second.mean(dim=0)) / 2.0
    left, right = first - mean, second - mean
    left = left / left.norm(dim=1, keepdim=True).clamp_min(1e-12)
    right = right / right.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.matmul(left, right.T)


def compare(pairs: Tensor, alike: Tensor) -> Tensor:
    """Compare some pairs with all pairs of different samples: their mean, all means, deviation."""
    n, itself = len(alike), alike.diagonal()
    count = n * (n - 1)
    mean = (alike.sum() - itself.sum()) / count
    square = (alike.square().sum() - itself.square().sum()) / count
    return torch.stack([pairs.mean(), mean, (square - mean.square()).clamp_min(0.0).sqrt()])
