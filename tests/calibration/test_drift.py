"""The drift report's measures, each against what it must be by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.drift import alternate, cosine, paired_interval, top_overlap
from edge_runtime.metrics.road import RoadCurve


def test_overlap_of_the_most_salient() -> None:
    maps = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    shifted = maps.copy()
    shifted.reshape(-1)[95:100] = -1  # five of the ten most salient are gone
    assert top_overlap(maps, maps).tolist() == [1.0]
    assert top_overlap(maps, shifted)[0] == pytest.approx(5 / 15)
    assert top_overlap(maps, -maps).tolist() == [0.0]


def test_cosine_of_signed_maps() -> None:
    a = np.array([[[[3.0, 4.0]]], [[[1.0, 0.0]]], [[[0.0, 0.0]]]])
    b = np.array([[[[6.0, 8.0]]], [[[-2.0, 0.0]]], [[[1.0, 1.0]]]])
    assert cosine(a, b) == pytest.approx([1.0, -1.0, 0.0])


def curve(correct: np.ndarray) -> RoadCurve:
    return RoadCurve(np.array([1.0, 51.0, 91.0]), correct, correct.astype(np.float64))


def test_interval_of_the_difference_is_paired() -> None:
    correct = np.random.default_rng(0).random((60, 3)) < 0.5
    assert paired_interval(curve(correct), curve(correct), 0) == (0.0, 0.0)
    better = correct.copy()
    better[:30] = True
    low, high = paired_interval(curve(correct), curve(better), 0)
    assert 0 < low < curve(better).auc - curve(correct).auc < high < 1


def test_calls_alternate() -> None:
    said: list[str] = []
    samples = alternate([lambda: said.append("a"), lambda: said.append("b")], count=2)
    assert said == ["a", "a", "b", "b"] * 2
    assert [len(times) for times in samples] == [2, 2]
