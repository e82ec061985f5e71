"""Measures of an explainer's stability: SmoothGrad over seeds, Max-Sensitivity, and IG's completeness gap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.metrics.saliency import rank_correlation

Array = NDArray[Any]


def seed_stability(explain: Callable[[int], Array], seeds: Sequence[int] = (0, 1, 2)) -> NDArray[np.float64]:
    """Return the mean Spearman correlation over all pairs of ``seeds``, [N]; ``explain(seed)`` gives maps [N, H, W]."""
    if len(seeds) < 2:
        raise InputError(f"seeds are {list(seeds)}; give at least two")
    maps = [explain(seed) for seed in seeds]
    pairs = [rank_correlation(a, b) for a, b in itertools.combinations(maps, 2)]
    result: NDArray[np.float64] = np.mean(pairs, axis=0)
    return result


def max_sensitivity(
    explain: Callable[[NDArray[np.float32]], Array],
    images: NDArray[np.float32],
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the largest relative change of the explanation within an L-infinity ball, [N] (Yeh et al. 2019, eq. 3).

    max over ``samples`` uniform draws d, |d| <= radius, of ||E(x + d) - E(x)|| / ||E(x)||; ``explain`` maps images
    [N, C, H, W] to attributions of any shape [N, ...]. NaN where E(x) is all zero.
    """
    if radius <= 0 or samples < 1:
        raise InputError(f"radius {radius} and samples {samples} must be positive")
    rng = np.random.default_rng(seed)
    reference = explain(images).reshape(len(images), -1).astype(np.float64)
    norm = np.linalg.norm(reference, axis=1)
    worst = np.zeros(len(images))
    for _ in range(samples):
        shift = rng.uniform(-radius, radius, images.shape).astype(images.dtype)
        moved = explain(images + shift).reshape(len(images), -1)
        worst = np.maximum(worst, np.linalg.norm(moved - reference, axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.where(norm > 0, worst / norm, np.nan)
    return result


def completeness_gap(attribution: Array, at_image: Array, at_baseline: Array) -> NDArray[np.float64]:
    """Return |sum of the attribution [N, C, H, W] - (F(x) - F(baseline))|, [N]: Integrated Gradients sums to it."""
    total = attribution.reshape(len(attribution), -1).astype(np.float64).sum(axis=1)
    result: NDArray[np.float64] = np.abs(total - (at_image.astype(np.float64) - at_baseline))
    return result
