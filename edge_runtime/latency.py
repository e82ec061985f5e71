"""Latency statistics of all samples: tails are what a vehicle feels, so nothing is clipped and no outlier dropped."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
RESAMPLES = 1000
CONFIDENCE = 0.95
VALUES_AT_ONCE = 4_000_000  # of the resampled matrix: 32 MB


class LatencySummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Statistics of ``count`` samples in milliseconds, with 95 % bootstrap ``intervals`` by statistic.

    A percentile is the smallest sample that at least that share does not exceed: always a measured value, and the
    maximum where there are too few samples to tell (below 1,000 for ``p999``).
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float
    intervals: dict[str, tuple[float, float]]


def summarize(milliseconds: NDArray[np.float64], seed: int = 0, *, intervals: bool = True) -> LatencySummary:
    """Return the statistics of samples [n], n >= 1; ``seed`` draws the resamples, without ``intervals`` there are none.

    The intervals take the samples as independent. Slow drift breaks that, and is flagged by the benchmark instead.
    """
    points = statistics(milliseconds[None])
    return LatencySummary(
        count=len(milliseconds),
        max=float(milliseconds.max()),
        intervals=bootstrap(milliseconds, seed) if intervals else {},
        **{name: float(values[0]) for name, values in points.items()},
    )


def bootstrap(milliseconds: NDArray[np.float64], seed: int) -> dict[str, tuple[float, float]]:
    """Return the interval of every statistic of samples [n]."""
    resampled = [statistics(part) for part in resamples(milliseconds, seed)]
    tail = (1 - CONFIDENCE) / 2
    found = {}
    for name in resampled[0]:
        low, high = np.quantile(np.concatenate([part[name] for part in resampled]), [tail, 1 - tail])
        found[name] = (float(low), float(high))
    return found


def statistics(samples: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return mean and percentiles of each row of ``samples`` [r, n], each [r]."""
    found = {"mean": samples.mean(axis=1)}
    quantiles = np.quantile(samples, list(QUANTILES.values()), axis=1, method="inverted_cdf")
    return found | dict(zip(QUANTILES, quantiles, strict=True))


def resamples(samples: NDArray[np.float64], seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield ``RESAMPLES`` rows drawn with replacement, in matrices of bounded size."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, VALUES_AT_ONCE // len(samples)))
    for start in range(0, RESAMPLES, rows):
        size = (min(rows, RESAMPLES - start), len(samples))
        yield samples[generator.integers(0, len(samples), size)]
