"""What the loop leaves out when the device cannot keep up: step by step, with hysteresis, never the classification."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """One rung: its name, and the kinds of work left out there and on every higher one."""

    name: str
    without: frozenset[str]


# From nothing left out to classification alone.
STEPS = (
    Step("nothing left out", frozenset()),
    Step("no ROAD", frozenset({"road"})),
    Step("no ROAD, no IG or SG", frozenset({"road", "ig", "sg"})),
    Step("no explanations", frozenset({"road", "ig", "sg", "vg"})),
    Step("no explanations, no thumbnails", frozenset({"road", "ig", "sg", "vg", "thumbnails"})),
)


@dataclass(frozen=True)
class LadderOptions:
    """When to go down and up again.

    ``target_ms``: the p95 of a frame's age at its classification over the newest ``samples`` should stay below it.
    ``hot_celsius``: of the hottest sensor. ``hold_seconds``: how long pressure must last for a further step (longer
    than ``samples`` frames take, or a few slow ones would do);
    ``relief_seconds``: how long there must be none for a step back, doubled (up to ``longest_relief_seconds``) each
    time the relief turns out to have been too early. Relief is a p95 below ``relief`` of the target and
    ``cooler_celsius`` below hot.
    """

    target_ms: float = 50.0
    hot_celsius: float = 95.0
    cooler_celsius: float = 5.0
    relief: float = 0.7
    samples: int = 50
    hold_seconds: float = 3.0
    relief_seconds: float = 10.0
    longest_relief_seconds: float = 320.0


@dataclass(frozen=True)
class LadderChange:
    """A step was taken from ``before`` to ``step``, because of ``reason``."""

    before: int
    step: int
    reason: str


class Ladder:
    """The present step. Times are seconds of any steady clock, given by the caller."""

    def __init__(self, options: LadderOptions) -> None:
        self.options = options
        self.step = 0
        self._ages: deque[float] = deque(maxlen=options.samples)
        self._hottest: float | None = None
        self._throttled = False
        self._reasons: tuple[str, ...] = ()
        self._pressed_since: float | None = None
        self._relieved_since: float | None = None
        self._relief_seconds = options.relief_seconds
        self._eased_at: float | None = None

    def allows(self, kind: str) -> bool:
        """Say whether work of this kind (road, ig, sg, vg, thumbnails) is done on the present step."""
        return kind not in STEPS[self.step].without

    def aged(self, milliseconds: float) -> None:
        """Take note of a frame's age when it was classified."""
        self._ages.append(milliseconds)

    def sensed(self, hottest_celsius: float | None, throttled: bool | None, reasons: tuple[str, ...] = ()) -> None:
        """Take note of the device's readings; what it does not offer drives nothing."""
        self._hottest, self._throttled, self._reasons = hottest_celsius, bool(throttled), reasons

    def update(self, now: float) -> LadderChange | None:
        """Return the step that is due, if any: down after lasting pressure, back after lasting relief."""
        pressure = self._pressure()
        if pressure is not None:
            self._relieved_since = None
            if self._pressed_since is None:
                self._pressed_since = now
            if now - self._pressed_since < self.options.hold_seconds or self.step + 1 == len(STEPS):
                return None
            return self._down(now, pressure)
        self._pressed_since = None
        if not self.step or not self._relieved():
            self._relieved_since = None
            return None
        if self._relieved_since is None:
            self._relieved_since = now
        if now - self._relieved_since < self._relief_seconds:
            return None
        return self._up(now)

    def _down(self, now: float, pressure: str) -> LadderChange:
        if self._eased_at is not None:
            early = now - self._eased_at < 2 * self._relief_seconds
            longer = min(2 * self._relief_seconds, self.options.longest_relief_seconds)
            self._relief_seconds = longer if early else self.options.relief_seconds
            self._eased_at = None
        return self._take(1, pressure)

    def _up(self, now: float) -> LadderChange:
        self._eased_at = now
        return self._take(-1, f"no pressure for {self._relief_seconds:g} s")

    def _take(self, direction: int, reason: str) -> LadderChange:
        before = self.step
        self.step += direction
        # The next step needs evidence from after this one.
        self._pressed_since = self._relieved_since = None
        self._ages.clear()
        return LadderChange(before, self.step, reason)

    @property
    def p95_ms(self) -> float | None:
        """The p95 of the newest ages; None before a tenth of a window is there."""
        if len(self._ages) < max(1, self.options.samples // 10):
            return None
        return float(np.quantile(np.asarray(self._ages), 0.95, method="inverted_cdf"))

    def _pressure(self) -> str | None:
        options, p95 = self.options, self.p95_ms
        if self._throttled:
            return f"throttled ({', '.join(self._reasons) or 'no reason given'})"
        if self._hottest is not None and self._hottest >= options.hot_celsius:
            return f"{self._hottest:.0f} degrees Celsius, the limit is {options.hot_celsius:g}"
        if p95 is not None and p95 > options.target_ms:
            return f"p95 of the frames' age is {p95:.1f} ms, the target {options.target_ms:g} ms"
        return None

    def _relieved(self) -> bool:
        options, p95 = self.options, self.p95_ms
        cool = self._hottest is None or self._hottest < options.hot_celsius - options.cooler_celsius
        return cool and p95 is not None and p95 <= options.relief * options.target_ms
