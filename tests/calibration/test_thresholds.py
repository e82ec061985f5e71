"""Histograms of a stream, and what each method reads from them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from calibration.thresholds import BINS, METHODS, PERCENTILE, Histogram, threshold


def filled(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, np.float32))
    return histogram


def normal(count: int = 200_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_every_value_counts_once() -> None:
    batches = np.split(normal(), 8)
    histogram = filled(*sorted(batches, key=lambda batch: np.abs(batch).max()))  # each batch beyond the last one
    assert histogram.counts.sum() == 200_000
    assert len(histogram.counts) == BINS
    assert histogram.largest == pytest.approx(float(np.abs(normal()).max()))
    exact = np.histogram(np.abs(normal()), bins=BINS, range=(0, histogram.limit))[0]
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(exact)).max() < 100


def test_zeros_are_apart() -> None:
    histogram = filled(np.zeros(1000), np.maximum(normal(1000), 0))
    assert histogram.counts.sum() == np.count_nonzero(normal(1000) > 0)
    assert all(threshold(filled(np.zeros(10)), method) == 0 for method in METHODS)


def test_minmax_and_percentile() -> None:
    histogram = filled(normal())
    assert threshold(histogram, "minmax") == histogram.largest
    expected = np.percentile(np.abs(normal()), PERCENTILE)
    assert threshold(histogram, "percentile") == pytest.approx(expected, abs=2 * histogram.limit / BINS)


def test_percentile_agrees_with_onnxruntime() -> None:
    peer = HistogramCollector("percentile", True, BINS, 128, PERCENTILE, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        peer.collect({"x": normal()})
        (_, high, *_) = peer.compute_collection_result()["x"]
    assert threshold(filled(normal()), "percentile") == pytest.approx(float(high), rel=0.01)


def test_mse_is_the_best_of_all_thresholds() -> None:
    values = np.abs(normal(50_000))
    found = threshold(filled(values), "mse")

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(np.minimum(np.rint(values / step), 127) * step - values).mean())

    others = np.linspace(0.2, 1, 60) * values.max()
    assert error(found) <= 1.01 * min(error(float(limit)) for limit in others)


@pytest.mark.parametrize("method", ["entropy", "mse", "percentile"])
def test_outliers_are_clipped(method: str) -> None:
    values = np.concatenate([normal(), np.full(3, 60.0, np.float32)])
    assert 3 < threshold(filled(values), method) < 50
    assert threshold(filled(values), "minmax") == 60


@pytest.mark.parametrize("method", METHODS)
def test_a_handful_of_values(method: str) -> None:
    assert 0 < threshold(filled(np.array([0.5, -0.25])), method) <= 0.5


def test_uniform_values_are_hardly_clipped() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 100_000)
    assert threshold(filled(values), "entropy") > 0.9
