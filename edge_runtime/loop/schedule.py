"""Which frames are audited, and when there is time for it: counts, a share of time, a seeded reservoir, idle gaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.manifest import Method

Item = TypeVar("Item")

# The explainers whose cost is a multiple of VG's. They take turns.
COSTLY: tuple[Method, ...] = ("ig", "sg")


@dataclass(frozen=True)
class ScheduleOptions:
    """What is audited.

    ``methods``: the explainers in use. VG explains every ``every``-th classified image. IG and SG take turns: live by
    ``budget``, the share of wall time that they and ROAD may use; in a replay on every ``costly_every``-th VG. ROAD
    measures VG on ``road_images`` of every ``road_window`` classified images, drawn by ``seed``; 0 images: never.
    """

    methods: tuple[Method, ...] = ("vg", "ig", "sg")
    every: int = 10
    budget: float = 0.2
    costly_every: int = 10
    road_images: int = 8
    road_window: int = 300
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for numbers that cannot be."""
        for name, least in (("every", 1), ("costly_every", 1), ("road_images", 0), ("road_window", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name.replace('_', '-')} is {value}; give a whole number of at least {least}")
        if not 0 <= self.budget <= 1:
            raise InputError(f"budget is {self.budget}; give a share of time from 0 to 1")
        if self.road_images > self.road_window:
            raise InputError(f"road-images is {self.road_images}, more than its window of {self.road_window} frames")


@dataclass
class Budget:
    """A share of wall time: what was spent must not exceed ``share`` of what has passed, nor be saved up for long.

    ``burst_seconds`` bounds the saving, so that a quiet minute does not lead to a busy one.
    """

    share: float
    burst_seconds: float = 1.0
    _saved: float = 0.0
    _then: float | None = None

    def allows(self, now: float) -> bool:
        """Say whether there is anything left to spend at ``now`` (seconds of a steady clock)."""
        if self._then is not None:
            self._saved = min(self._saved + self.share * (now - self._then), self.burst_seconds)
        self._then = now
        return self.share > 0 and self._saved >= 0

    def spend(self, seconds: float) -> None:
        """Enter what a slice of work took; it may run into debt."""
        self._saved -= seconds


class Turns:
    """Which costly explainer is next: they alternate."""

    def __init__(self, methods: tuple[Method, ...]) -> None:
        self._methods = [method for method in COSTLY if method in methods]
        self._next = 0

    def take(self) -> Method | None:
        """Return the next one, None where none is in use."""
        if not self._methods:
            return None
        method = self._methods[self._next % len(self._methods)]
        self._next += 1
        return method


class Reservoir(Generic[Item]):
    """A uniform sample of ``size`` out of every ``window`` items offered (Vitter's algorithm R), drawn by ``seed``.

    Every window has its own generator, so that its draw depends on nothing but the seed and the window's number.
    """

    def __init__(self, size: int, window: int, seed: int) -> None:
        self._size, self._window, self._seed = size, window, seed
        self._number = -1
        self._begin()

    def _begin(self) -> None:
        self._number += 1
        self._generator = np.random.default_rng((self._seed, self._number))
        self._kept: list[tuple[int, Item]] = []
        self._offered = 0

    def offer(self, item: Item) -> list[Item] | None:
        """Take one item; at the end of a window return what was kept of it, in the order of arrival."""
        if not self._size:
            return None
        place = self._offered
        self._offered += 1
        if len(self._kept) < self._size:
            self._kept.append((place, item))
        else:
            drawn = int(self._generator.integers(0, self._offered))
            if drawn < self._size:
                self._kept[drawn] = (place, item)
        if self._offered < self._window:
            return None
        kept = [item for _, item in sorted(self._kept, key=lambda pair: pair[0])]
        self._begin()
        return kept


@dataclass
class Gaps:
    """Does a slice of work fit before the next frame? Durations by kind of slice are remembered at their worst.

    ``patience_seconds``: after so long a slice need not fit (every tenth frame of 30 a second must find its time).
    ``margin``: so many times the longest must fit, because neither slices nor frames are on time to the millisecond.
    """

    patience_seconds: float = 0.25
    forget: float = 0.95
    margin: float = 1.25
    _longest: dict[str, float] = field(default_factory=dict)

    def took(self, kind: str, seconds: float) -> None:
        """Enter a slice's duration; an old maximum fades by ``forget`` with each."""
        self._longest[kind] = max(seconds, self.forget * self._longest.get(kind, 0.0))

    def fits(self, kind: str, room: float | None) -> bool:
        """Say whether a slice ends within ``room`` seconds; None: nobody knows when the next frame comes.

        A kind that was never run is taken to fit: there is no other way to learn how long it takes.
        """
        return room is None or self.margin * self._longest.get(kind, 0.0) < room
