"""Has a measure left the desktop's distribution? A rolling two-sample Kolmogorov-Smirnov test with a stated error rate.

False alarms: one test of values from the baseline's own distribution calls drift with a probability of at most
``threshold``, for the p-value is exact (and with ties too large, never too small). Overlapping windows make successive
tests dependent, but not their expected number: in N values there are N / stride tests, hence at most
threshold * N / stride false alarms in expectation, whatever the dependence between tests. The defaults allow one in two
million values. Values of successive frames that show the same sign are no independent draws, which no test can make up
for; ``thin`` is the remedy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.manifest import Baselines, DriftOptions

LEAST_BASELINE = 8  # values; with fewer no window could ever differ significantly


@dataclass(frozen=True)
class DriftChange:
    """A measure left its baseline (``drifted``) or returned to it."""

    measure: str
    drifted: bool
    p_value: float
    distance: float
    mean: float
    baseline_mean: float


class DriftMonitor:
    """One measure against its baseline values [m]. What is not finite is no value and is left out."""

    def __init__(self, measure: str, baseline: NDArray[np.float64], options: DriftOptions) -> None:
        self.measure = measure
        self.options = options
        self.drifted = False
        self.p_value: float | None = None
        self._baseline = np.sort(baseline)
        self._window: deque[float] = deque(maxlen=options.window)
        self._seen = 0
        self._untested = 0

    def add(self, value: float | None) -> DriftChange | None:
        """Take one value; return the change that it brings about, if any."""
        if value is None or not np.isfinite(value):
            return None
        self._seen += 1
        if self._seen % self.options.thin:
            return None
        self._window.append(float(value))
        self._untested += 1
        if len(self._window) < self.options.window or self._untested < self.options.stride:
            return None
        self._untested = 0
        return self._test()

    def _test(self) -> DriftChange | None:
        values = np.sort(np.asarray(self._window))
        distance = ks_distance(values, self._baseline)
        self.p_value = ks_p_value(distance, len(values), len(self._baseline))
        turned = self.p_value >= self.options.returned if self.drifted else self.p_value < self.options.threshold
        if not turned:
            return None
        self.drifted = not self.drifted
        means = (float(values.mean()), float(self._baseline.mean()))
        return DriftChange(self.measure, self.drifted, self.p_value, distance, *means)


def baseline_values(baselines: Baselines) -> dict[str, tuple[float, ...]]:
    """Return the desktop's values by measure: confidence, ``gini METHOD`` and ``road METHOD``; none is empty."""
    known = {"confidence": baselines.confidence}
    known |= {f"gini {method}": values for method, values in baselines.gini.items()}
    known |= {f"road {method}": road.areas for method, road in baselines.road.items()}
    return {measure: values for measure, values in known.items() if values}


def monitors(baselines: Baselines, options: DriftOptions) -> dict[str, DriftMonitor]:
    """Return a monitor for every measure whose baseline has LEAST_BASELINE values or more."""
    return {
        measure: DriftMonitor(measure, np.asarray(values, np.float64), options)
        for measure, values in baseline_values(baselines).items()
        if len(values) >= LEAST_BASELINE
    }


def ks_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the largest difference between the empirical distribution functions of two sorted samples."""
    both = np.concatenate([first, second])
    shares = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_p_value(distance: float, n: int, m: int) -> float:
    """Return the exact P(D >= distance) for samples of n and m values of one continuous distribution.

    Under the hypothesis every merge of the two samples, a monotone path from (0, 0) to (n, m), is equally likely, and D
    is the largest |i / n - j / m| along it. Counts the paths that stay below ``distance``, row by row: each cell is the
    sum of its two predecessors, so a row is the running sum of the row before, within the band. With ties in the data D
    can only come out smaller, so the p-value errs towards no drift.
    """
    # Distances are multiples of 1 / (n m); half of one keeps rounding from deciding which side of the band a cell is.
    limit = distance - 0.5 / (n * m)
    if limit <= 0:
        return 1.0
    columns = np.arange(m + 1) / m
    row = np.where(columns < limit, 1.0, 0.0)
    log_scale = 0.0
    for i in range(1, n + 1):
        band = np.abs(i / n - columns) < limit
        row = np.where(band, np.cumsum(np.where(band, row, 0.0)), 0.0)
        peak = float(row.max())
        if not peak:
            return 1.0
        row /= peak
        log_scale += float(np.log(peak))
    inside = np.exp(np.log(row[m]) + log_scale - _log_paths(n, m)) if row[m] > 0 else 0.0
    return float(min(1.0, max(0.0, 1.0 - inside)))


def _log_paths(n: int, m: int) -> float:
    """Return log((n + m)! / (n! m!))."""
    steps = np.arange(1, min(n, m) + 1)
    return float(np.log((max(n, m) + steps) / steps).sum())
