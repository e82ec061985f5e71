"""From the distribution of a tensor's |values| to the largest one that int8 represents: one small function a method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

BINS = 2048
LEVELS = 127
DEFAULT_METHOD = "entropy"
# Share of values, zeros aside, that is not clipped.
PERCENTILE = 99.99
# Thresholds that are tried, as a share of the largest value; below an eighth clipping never pays.
CANDIDATES = np.linspace(1 / 8, 1, 113)
# A value that the candidate misses altogether has a finite price.
LEAST_SHARE = 1e-9

Counts = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


class Histogram:
    """How often each |value| of a stream occurred, in BINS equal bins from 0 to ``limit``; memory never grows.

    A value beyond the limit doubles it: pairs of bins become one. Values that are exactly 0 are counted apart; they
    are represented whatever the threshold.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count ``values``, which are finite."""
        size = np.abs(values.reshape(-1))
        largest = float(size.max(initial=0.0))
        if largest == 0.0:
            return
        self.largest = max(self.largest, largest)
        if self.limit == 0.0:
            self.limit = largest
        while largest > self.limit:
            folded = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([folded, np.zeros(BINS - len(folded), np.int64)])
            self.limit *= 2
        place = np.minimum((size * np.float32(BINS / self.limit)).astype(np.int32), BINS - 1)
        found = np.bincount(place, minlength=BINS)
        found[0] -= len(size) - np.count_nonzero(size)
        self.counts += found

    def centres(self) -> Array:
        """Return the |value| that each bin stands for."""
        centres: Array = (np.arange(BINS, dtype=np.float64) + 0.5) * (self.limit / BINS)
        return centres


def threshold(histogram: Histogram, method: str) -> float:
    """Return the largest |value| to represent, at most the largest that was seen; 0 where all values were 0."""
    if histogram.largest == 0.0:
        return 0.0
    return min(METHODS[method](histogram), histogram.largest)


def minmax(histogram: Histogram) -> float:
    """Nothing is clipped."""
    return histogram.largest


def percentile(histogram: Histogram) -> float:
    """All but the largest 0.01 % of the values that are not 0."""
    total = np.cumsum(histogram.counts)
    place = int(np.searchsorted(total, total[-1] * PERCENTILE / 100))
    return (place + 1) * histogram.limit / BINS


def mse(histogram: Histogram) -> float:
    """The threshold of the least mean square error of rounding and clipping together."""
    centres = histogram.centres()
    limits = CANDIDATES * histogram.largest
    steps = limits[:, None] / LEVELS
    represented = np.minimum(np.rint(centres / steps), LEVELS) * steps
    errors = ((represented - centres) ** 2 * histogram.counts).sum(axis=1)
    return float(limits[int(errors.argmin())])


def entropy(histogram: Histogram) -> float:
    """The threshold whose quantised distribution says most about the original: least Kullback-Leibler divergence.

    As TensorRT's entropy calibration: the reference is the histogram up to the threshold with everything beyond it in
    the last bin; the candidate is the same without the outliers, merged into 128 levels and spread again over the bins
    that are not empty in the reference.
    """
    divergences = [_divergence(histogram.counts, round(share * _filled(histogram))) for share in CANDIDATES]
    return float(CANDIDATES[int(np.argmin(divergences))] * histogram.largest)


METHODS: dict[str, Callable[[Histogram], float]] = {
    "entropy": entropy,
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def _filled(histogram: Histogram) -> int:
    """Return how many bins lie below the largest value."""
    return max(1, min(BINS, int(np.ceil(histogram.largest / histogram.limit * BINS))))


def _divergence(counts: Counts, bins: int) -> float:
    """Return KL(reference | candidate) for the first ``bins`` bins."""
    bins = max(bins, 1)
    kept = counts[:bins].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[bins:].sum()
    edges = np.unique(np.arange(LEVELS + 1) * bins // (LEVELS + 1))
    present = (reference > 0).astype(np.float64)
    mass, width = np.add.reduceat(kept, edges), np.add.reduceat(present, edges)
    level = np.searchsorted(edges, np.arange(bins), side="right") - 1
    candidate = np.where(present > 0, (mass / np.maximum(width, 1))[level], 0.0)
    if candidate.sum() == 0:
        return float("inf")
    p, q = reference / reference.sum(), candidate / candidate.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], LEAST_SHARE))).sum())
