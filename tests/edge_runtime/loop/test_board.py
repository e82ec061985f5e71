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


class Clock:
    """Both clocks, ``seconds`` after the start; the wall clock ``set_by`` more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = self.set_by = 0.0
        monkeypatch.setattr(board_module.time, "monotonic", lambda: 50.0 + self.seconds)
        monkeypatch.setattr(board_module.time, "time", lambda: 1000.0 + self.seconds + self.set_by)


def test_series_are_means_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, board = Clock(monkeypatch), Board()
    for second, value in ((0, 1.0), (0.5, 3.0), (0.9, np.nan), (1, 5.0), (2, np.nan), (2.5, np.nan), (6, 7.0)):
        clock.seconds = second
        board.measured("gini vg", value, (0.25, 0.75))
    found = board.series("gini")
    assert set(found) == {"vg"}
    assert found["vg"].baseline == 0.5
    assert found["vg"].values == (2.0, 5.0, None, 7.0)
    assert found["vg"].wall == (1000.9, 1001.0, 1002.5, 1006.0)
    assert board.series("road") == {}


def test_values_that_come_together_and_rarely_are_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ROAD's do; those of the next window are a point of their own."""
    clock, board = Clock(monkeypatch), Board()
    for window in range(3):
        clock.seconds = 300.0 * window
        for image in range(8):
            board.measured("road vg", window + image / 7)
        found = board.series("road")["vg"]
        assert found.values == tuple(number + 0.5 for number in range(window + 1))
        assert found.wall[-1] == 1000.0 + clock.seconds


def test_a_clock_that_is_set_back_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, board = Clock(monkeypatch), Board()
    for second in range(6):
        clock.seconds, clock.set_by = float(second), -3600.0 if second > 2 else 0.0
        board.measured("confidence", float(second))
    assert board.series("confidence")[""].values == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_series_and_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, board = Clock(monkeypatch), Board()
    for _ in range(2 * SERIES_POINTS + 10):
        clock.seconds += 2.0
        board.measured("confidence", 0.5)
        board.happened("something", "happened")
    assert len(board.series("confidence")[""].values) <= SERIES_POINTS
    assert len(board.events) == EVENTS
