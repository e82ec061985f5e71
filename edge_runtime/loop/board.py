"""What the loop tells of itself: everything that the live folder shows, collected in memory of fixed size."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_runtime.latency import LatencySummary, summarize
from edge_runtime.live import SERIES_POINTS, Histogram, Series, Shown

EDGES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 33.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
# Summaries at the end are over the newest samples of each stage: half an hour at 30 frames a second.
SAMPLES = 1 << 16
# Live summaries are over fewer, because they are made again and again: half a minute.
LIVE_SAMPLES = 1 << 10
SERIES_SECONDS = 1.0  # a series shows means over so long
EVENTS = 50


class Stage:
    """Milliseconds of one stage: the newest SAMPLES, and a histogram of all."""

    def __init__(self) -> None:
        # Written to, so that the memory is taken now and not page by page over the first half hour.
        self._values = np.full(SAMPLES, 0.0)
        self._count = 0
        self._histogram = [0] * (len(EDGES) + 1)
        self._total = 0.0

    def add(self, milliseconds: float) -> None:
        """Enter one sample."""
        self._values[self._count % SAMPLES] = milliseconds
        self._count += 1
        self._histogram[bisect.bisect_left(EDGES, milliseconds)] += 1
        self._total += milliseconds

    def newest(self, count: int) -> NDArray[np.float64]:
        """Return the newest samples, at most ``count``, oldest first."""
        count = min(count, self._count, SAMPLES)
        return self._values[np.arange(self._count - count, self._count) % SAMPLES]

    def histogram(self) -> Histogram:
        """Return the counts of all samples."""
        return Histogram(edges=EDGES, counts=tuple(self._histogram), total=self._total)


@dataclass
class Curve:
    """A measure over time: means over SERIES_SECONDS, None where no value was defined.

    The newest point may still grow, so that a value is seen at once: ROAD's come all together, minutes apart.
    """

    baseline: float | None
    _points: deque[tuple[float, float | None]] = field(default_factory=lambda: deque(maxlen=SERIES_POINTS))
    _gathered: list[float] = field(default_factory=list)
    _since: float = -np.inf  # of the steady clock: the other may be set back by hours

    def add(self, value: float) -> None:
        """Enter a value; NaN is undefined."""
        now = time.monotonic()
        begins = now - self._since >= SERIES_SECONDS
        if begins:
            self._since, self._gathered = now, []
        if np.isfinite(value):
            self._gathered.append(float(value))
        point = (time.time(), float(np.mean(self._gathered)) if self._gathered else None)
        if begins:
            self._points.append(point)
        else:
            self._points[-1] = point

    def series(self) -> Series:
        """Return the points so far."""
        wall, values = zip(*self._points, strict=True) if self._points else ((), ())
        return Series(wall=wall, values=values, baseline=self.baseline)


@dataclass(frozen=True)
class Pictures:
    """The newest frame, as the source gave it, and the newest explanation with its image; uint8 and float32 arrays."""

    frame: NDArray[np.uint8] | None = None
    image: NDArray[np.uint8] | None = None
    saliency: NDArray[np.float32] | None = None
    method: str | None = None


class Board:
    """Collects; every method may be called from any thread."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        self.last_frame_wall: float | None = None
        self.pictures = Pictures()
        self._lock = threading.Lock()
        self._stages: dict[str, Stage] = {}
        self._curves: dict[str, Curve] = {}
        self._events: deque[tuple[float, str, str]] = deque(maxlen=EVENTS)

    def took(self, stage: str, milliseconds: float) -> None:
        """Enter how long a stage took."""
        with self._lock:
            self._stages.setdefault(stage, Stage()).add(milliseconds)

    def measured(self, measure: str, value: float, baseline: tuple[float, ...] = ()) -> None:
        """Enter a value of a measure ("gini vg", "road vg", "confidence")."""
        with self._lock:
            if measure not in self._curves:
                self._curves[measure] = Curve(float(np.mean(baseline)) if baseline else None)
            self._curves[measure].add(value)

    def happened(self, name: str, message: str) -> None:
        """Enter an event."""
        with self._lock:
            self._events.append((time.time(), name, message))

    @property
    def events(self) -> tuple[tuple[float, str, str], ...]:
        """The newest events."""
        with self._lock:
            return tuple(self._events)

    def histograms(self) -> dict[str, Histogram]:
        """Return the histogram of every stage."""
        with self._lock:
            return {name: stage.histogram() for name, stage in self._stages.items()}

    def samples(self, stage: str) -> NDArray[np.float64]:
        """Return the newest milliseconds of a stage, oldest first; empty where it never ran."""
        with self._lock:
            return self._stages[stage].newest(SAMPLES) if stage in self._stages else np.zeros(0)

    def latency(self, samples: int = SAMPLES) -> dict[str, LatencySummary]:
        """Return statistics of the newest ``samples`` of every stage.

        Without bootstrap intervals, which take seconds: a loop that stops has not the time.
        """
        with self._lock:
            newest = {name: stage.newest(samples) for name, stage in self._stages.items()}
        return {name: summarize(values, intervals=False) for name, values in newest.items()}

    def series(self, kind: str) -> dict[str, Series]:
        """Return the series of a kind of measure by the rest of its name: "gini" gives {"vg": ...}."""
        with self._lock:
            named = {name: curve.series() for name, curve in self._curves.items()}
        return {name.partition(" ")[2]: series for name, series in named.items() if name.partition(" ")[0] == kind}
