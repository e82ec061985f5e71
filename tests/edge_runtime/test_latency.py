"""Percentiles are measured samples, and intervals cover what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime import latency
from edge_runtime.latency import RESAMPLES, resamples, summarize


def test_known_samples() -> None:
    found = summarize(np.arange(1, 1001, dtype=float)[::-1])
    assert (found.count, found.mean, found.max) == (1000, 500.5, 1000)
    assert (found.p50, found.p90, found.p95, found.p99, found.p999) == (500, 900, 950, 990, 999)


def test_without_intervals_the_statistics_are_the_same() -> None:
    samples = np.random.default_rng(0).random(50)
    quick, full = summarize(samples, intervals=False), summarize(samples)
    assert quick.intervals == {}
    assert (quick.count, quick.mean, quick.p50, quick.p999, quick.max) == (
        full.count, full.mean, full.p50, full.p999, full.max,
    )  # fmt: skip


def test_an_outlier_is_never_clipped() -> None:
    samples = np.ones(100)
    samples[40] = 5000.0
    found = summarize(samples)
    assert found.max == found.p999 == 5000.0
    assert found.p99 == 1.0
    assert found.mean == pytest.approx(50.99)
    assert found.intervals["p999"][1] == 5000.0


def test_one_sample_is_every_statistic() -> None:
    found = summarize(np.array([3.5]))
    assert {found.mean, found.p50, found.p999, found.max} == {3.5}
    assert set(found.intervals.values()) == {(3.5, 3.5)}


def test_intervals_are_those_of_theory() -> None:
    samples = np.random.default_rng(1).normal(10, 2, 400)
    found = summarize(samples)
    low, high = found.intervals["mean"]
    half = 1.96 * samples.std() / np.sqrt(400)
    assert low == pytest.approx(samples.mean() - half, abs=0.03)
    assert high == pytest.approx(samples.mean() + half, abs=0.03)
    assert low < found.mean < high
    for name in ("p50", "p90", "p95", "p99", "p999"):
        low, high = found.intervals[name]
        assert low <= getattr(found, name) <= high


def test_resamples_are_the_same_for_the_same_seed() -> None:
    samples = np.random.default_rng(0).random(50)
    assert summarize(samples, 1) == summarize(samples, 1)
    assert summarize(samples, 1) != summarize(samples, 2)


def test_many_samples_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "VALUES_AT_ONCE", 700)
    parts = list(resamples(np.arange(100.0), 0))
    assert sum(len(part) for part in parts) == RESAMPLES
    assert max(part.size for part in parts) <= 700
