"""The board's memory is of fixed size, and what it shows adds up."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.live import SERIES_POINTS
from edge_runtime.loop import board as board_module
from edge_runtime.loop.board import EDGES, EVENTS, SAMPLES, Board, Stage


def test_a_stage_keeps_the_newest_samples_and_counts_all() -> None:
    stage = Stage()
    for number in range(SAMPLES + 10):
        stage.add(float(number % 7))
    assert len(stage.newest(SAMPLES)) == SAMPLES
    assert stage.newest(3).tolist() == [float(number % 7) for number in range(SAMPLES + 7, SAMPLES + 10)]
    histogram = stage.histogram()
    assert sum(histogram.counts) == SAMPLES + 10
    assert histogram.total == sum(number % 7 for number in range(SAMPLES + 10))


@pytest.mark.parametrize(("milliseconds", "bin_"), [(0.0, 0), (EDGES[0], 0), (EDGES[0] + 0.01, 1), (1e6, len(EDGES))])
def test_histogram_bins_include_their_upper_edge(milliseconds: float, bin_: int) -> None:
    stage = Stage()
    stage.add(milliseconds)
    assert stage.histogram().counts.index(1) == bin_


def test_latency_and_samples_by_stage() -> None:
    board = Board()
    for number in range(1, 101):
        board.took("classify", float(number))
    assert board.latency()["classify"].p99 == 99.0
    assert board.latency(10)["classify"].count == 10
    assert board.samples("classify").tolist() == list(range(1, 101))
    assert board.samples("never").size == 0


def test_series_are_means_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(board_module.time, "time", lambda: now[0])
    board = Board()
    for second, value in ((0, 1.0), (0.5, 3.0), (1, np.nan), (2, 5.0), (3, np.nan), (4, np.nan), (5, np.nan), (6, 7.0)):
        now[0] = 1000.0 + second
        board.measured("gini vg", value, (0.25, 0.75))
    found = board.series("gini")
    assert set(found) == {"vg"}
    assert found["vg"].baseline == 0.5
    assert found["vg"].values == (2.0, 5.0, None)
    assert found["vg"].wall == (1001.0, 1003.0, 1005.0)
    assert board.series("road") == {}


def test_series_and_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(board_module.time, "time", lambda: now[0])
    board = Board()
    for _ in range(2 * SERIES_POINTS + 10):
        now[0] += 2.0
        board.measured("confidence", 0.5)
        board.happened("something", "happened")
    assert len(board.series("confidence")[""].values) <= SERIES_POINTS
    assert len(board.events) == EVENTS
