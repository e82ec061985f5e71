"""ROAD: accuracy as the most (MoRF) or the least (LeRF) salient pixels are removed and imputed (Rong et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_runtime.errors import InputError, unknown
from edge_runtime.metrics.imputation import NOISE, impute_levels

Array = NDArray[Any]

PERCENTAGES = tuple(range(1, 100, 10))  # the authors' code
# Removal order from saliency, as a key to sort by ascending: MoRF removes the largest first, LeRF the smallest.
ORDERS: dict[str, Callable[[Array], Array]] = {"morf": lambda s: -s, "lerf": lambda s: s}
# Bounds the imputed images held at once, all levels together.
BLOCK_BYTES = 32 << 20
CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class RoadCurve:
    """One ROAD curve over L percentages and N images.

    ``percentages`` [L]; ``correct`` bool [N, L], prediction equal to the label; ``probability`` float64 [N, L], softmax
    probability of the label.
    """

    percentages: NDArray[np.float64]
    correct: NDArray[np.bool_]
    probability: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right predictions at each percentage, [L]."""
        result: NDArray[np.float64] = self.correct.mean(axis=0)
        return result

    @property
    def auc(self) -> float:
        """Area under the accuracy curve by trapezoids, divided by the range of the percentages: 0 .. 1."""
        return float(area(self.percentages, self.accuracy))

    @property
    def mean_probability(self) -> NDArray[np.float64]:
        """Mean probability of the label at each percentage, [L]."""
        result: NDArray[np.float64] = self.probability.mean(axis=0)
        return result

    def accuracy_interval(self, confidence: float = CONFIDENCE, seed: int = 0) -> NDArray[np.float64]:
        """Bootstrap interval of ``accuracy`` over images, [2, L]: low and high."""
        return _percentile(self._resampled(seed), confidence)

    def auc_interval(self, confidence: float = CONFIDENCE, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of ``auc`` over images: low and high."""
        low, high = _percentile(area(self.percentages, self._resampled(seed)), confidence)
        return float(low), float(high)

    def _resampled(self, seed: int) -> NDArray[np.float64]:
        """Return accuracy curves of ``RESAMPLES`` samples of the images with replacement, [RESAMPLES, L]."""
        n = len(self.correct)
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        result: NDArray[np.float64] = counts @ self.correct.astype(np.float64) / n
        return result


def road(
    classify: Callable[[NDArray[np.float32]], Array],
    images: NDArray[np.float32],
    saliency: Array,
    labels: ArrayLike,
    percentages: Sequence[float] = PERCENTAGES,
    order: str = "morf",
    seed: int = 0,
    *,
    noise: float = NOISE,
) -> RoadCurve:
    """Remove, impute and classify: ``images`` float32 [N, C, H, W] by ``saliency`` [N, H, W] against ``labels`` [N].

    ``classify`` maps images [B, C, H, W] to logits [B, K]. At p percent, round(p / 100 * H * W) pixels are removed, all
    channels together, ties by index; at 100 the channel's mean stands everywhere. ``percentages`` ascend within 0..100.
    The noise of an image depends on the seed and the image alone, so that batching changes nothing.

    Raises InputError for shapes that do not fit, unknown orders, NaN in the saliency, and percentages out of range.
    """
    labels = np.asarray(labels)
    levels = np.asarray(percentages, np.float64)
    _check(images, saliency, labels, levels, order)
    n, removed = len(images), _removed(levels, images)
    rank = removal_rank(saliency, order)
    block = max(1, BLOCK_BYTES // (images[0].nbytes * len(levels)))
    correct = np.empty((n, len(levels)), bool)
    probability = np.empty((n, len(levels)))
    for start in range(0, n, block):
        part = slice(start, start + block)
        imputed = impute_levels(images[part], rank[part], removed, noise=noise, seed=seed)
        logits = np.asarray(classify(imputed.reshape(-1, *images.shape[1:])))
        target = np.tile(labels[part], len(levels))
        shape = (len(levels), -1)
        right, likely = _judged(logits, target)
        correct[part], probability[part] = right.reshape(shape).T, likely.reshape(shape).T
    return RoadCurve(percentages=levels, correct=correct, probability=probability)


def road_steps(
    images: NDArray[np.float32],
    saliency: Array,
    labels: ArrayLike,
    percentages: Sequence[float] = PERCENTAGES,
    order: str = "morf",
    seed: int = 0,
    *,
    noise: float = NOISE,
) -> Generator[NDArray[np.float32], Array, RoadCurve]:
    """Do what :func:`road` does, level by level and without classifying, for a caller with more urgent work.

    Yields the N images of one level [N, C, H, W], is sent their logits [N, K], and returns the curve.
    """
    labels = np.asarray(labels)
    levels = np.asarray(percentages, np.float64)
    _check(images, saliency, labels, levels, order)
    removed = _removed(levels, images)
    correct = np.empty((len(images), len(levels)), bool)
    probability = np.empty((len(images), len(levels)))
    rank = removal_rank(saliency, order)
    for index, count in enumerate(removed):
        # Each level solved on its own takes longer than from the one before, but leaves nothing to keep meanwhile.
        logits = yield impute_levels(images, rank, [count], noise=noise, seed=seed)[0]
        correct[:, index], probability[:, index] = _judged(logits, labels)
    return RoadCurve(percentages=levels, correct=correct, probability=probability)


def combined(morf: RoadCurve, lerf: RoadCurve) -> float:
    """Return (area under LeRF - area under MoRF) / 2: higher is more faithful."""
    return (lerf.auc - morf.auc) / 2


def image_areas(morf: RoadCurve, lerf: RoadCurve) -> NDArray[np.float64]:
    """Return (area under LeRF - area under MoRF) / 2 of every image, [N]; :func:`combined` is their mean."""
    both = [area(curve.percentages, curve.correct.astype(np.float64)) for curve in (lerf, morf)]
    result: NDArray[np.float64] = (both[0] - both[1]) / 2
    return result


def removal_rank(saliency: Array, order: str) -> NDArray[np.int32]:
    """Return each pixel's place in the removal order, [N, H, W]; ties go by index."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    flat = ORDERS[order](saliency.reshape(len(saliency), -1))
    sequence = np.argsort(flat, axis=1, kind="stable")
    rank = np.empty(sequence.shape, np.int32)
    np.put_along_axis(rank, sequence, np.arange(flat.shape[1], dtype=np.int32)[None], axis=1)
    return rank.reshape(saliency.shape)


def area(percentages: NDArray[np.float64], curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under curves [..., L] by trapezoids, divided by the range; one percentage gives its value."""
    if len(percentages) == 1:
        return curves[..., 0]
    width = np.diff(percentages) / (percentages[-1] - percentages[0])
    result: NDArray[np.float64] = ((curves[..., 1:] + curves[..., :-1]) / 2 * width).sum(axis=-1)
    return result


def _check(images: Array, saliency: Array, labels: Array, levels: Array, order: str) -> None:
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"ROAD needs at least one image [N, C, H, W]; got an array of shape {images.shape}")
    if saliency.shape != (len(images), *images.shape[2:]) or labels.shape != (len(images),):
        raise InputError(
            f"ROAD needs saliency [N, H, W] and labels [N] for images {images.shape}; got {saliency.shape} and"
            f" {labels.shape}"
        )
    if np.isnan(saliency).any():
        raise InputError("the saliency holds NaN; leave those images out")
    if levels.size == 0 or levels.min() < 0 or levels.max() > 100 or (np.diff(levels) <= 0).any():
        raise InputError(f"percentages are {levels.tolist()}; give ascending numbers from 0 to 100")


def _removed(levels: Array, images: Array) -> list[int]:
    """Return how many pixels of an image each percentage removes."""
    pixels = images.shape[2] * images.shape[3]
    return [round(level / 100 * pixels) for level in levels.tolist()]


def _judged(logits: Array, labels: Array) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether logits [B, K] name ``labels`` [B], and the labels' probabilities, each [B]."""
    return logits.argmax(axis=1) == labels, _softmax(logits)[np.arange(len(labels)), labels]


def _percentile(values: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    tail = (1 - confidence) / 2 * 100
    return np.percentile(values, [tail, 100 - tail], axis=0)


def _softmax(logits: Array) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return result
