"""Measures of one saliency map: channel reduction, Gini index, gradient norm, rank correlation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError, unknown

Array = NDArray[Any]

# How the channels of an attribution [N, C, H, W] become a saliency map [N, H, W]. The choice dominates the Gini index,
# so that it is part of every record.
REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "sum_abs": lambda a: np.abs(a).sum(axis=1),
    "abs_sum": lambda a: np.abs(a.sum(axis=1)),
    "max_abs": lambda a: np.abs(a).max(axis=1),
    "sum_positive": lambda a: np.maximum(a.sum(axis=1), 0),
}


def reduce_channels(attribution: Array, reduction: str) -> Array:
    """Reduce the channels of ``attribution`` [N, C, H, W] to saliency [N, H, W], by a name of ``REDUCTIONS``."""
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    _require(attribution, 4, "attribution [N, C, H, W]")
    return REDUCTIONS[reduction](attribution)


def gini(saliency: Array) -> NDArray[np.float64]:
    """Gini index of |saliency| [N, H, W], one value in 0 .. 1 - 1 / (H W) for each image (paper, eq. 4).

    NaN, "undefined", where a map is all zero or holds a value that is not finite. Invariant to sign and scale.
    """
    _require(saliency, 3, "saliency [N, H, W]")
    values = np.abs(saliency.reshape(len(saliency), -1).astype(np.float64))
    d = values.shape[1]
    largest = values.max(axis=1, initial=0, keepdims=True)
    defined = np.isfinite(largest) & (largest > 0)  # a NaN anywhere makes the maximum NaN
    # dividing by the largest value first keeps sums of very small or very large maps in range
    ordered = np.sort(values / np.where(defined, largest, 1), axis=1)
    rank = 2 * np.arange(1, d + 1) - d - 1
    with np.errstate(invalid="ignore"):
        index = (ordered @ rank) / (d * np.where(defined, ordered.sum(axis=1, keepdims=True), 1))[:, 0]
    result: NDArray[np.float64] = np.where(defined[:, 0], index, np.nan)
    return result


def gradient_norm(attribution: Array) -> NDArray[np.float64]:
    """Euclidean norm ||E(x)||_2 of each image's attribution [N, C, H, W] (paper, eq. 12)."""
    _require(attribution, 4, "attribution [N, C, H, W]")
    result: NDArray[np.float64] = np.linalg.norm(attribution.reshape(len(attribution), -1).astype(np.float64), axis=1)
    return result


def rank_correlation(a: Array, b: Array) -> NDArray[np.float64]:
    """Spearman's rank correlation of each pair of maps [N, H, W]; equal values share their mean rank.

    NaN where a map is constant.
    """
    if a.shape != b.shape:
        raise InputError(f"maps of shapes {a.shape} and {b.shape} cannot be compared; give two of the same shape")
    first, second = (np.stack([_ranks(m) for m in maps.reshape(len(maps), -1)]) for maps in (a, b))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.where(scale > 0, (first * second).sum(axis=1) / scale, np.nan)
    return result


def _ranks(values: Array) -> NDArray[np.float64]:
    """Return the rank of every value, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return result


def _require(array: Array, rank: int, what: str) -> None:
    if array.ndim != rank:
        raise InputError(f"{what} is needed; got an array of shape {array.shape}")
