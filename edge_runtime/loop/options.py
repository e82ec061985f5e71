"""How a loop runs, and what it says it did."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from edge_runtime.errors import InputError
from edge_runtime.latency import LatencySummary
from edge_runtime.live import Counts, DriftState
from edge_runtime.loop.engine import EngineOptions
from edge_runtime.loop.ladder import LadderOptions
from edge_runtime.loop.queue import DEPTHS
from edge_runtime.loop.schedule import ScheduleOptions
from edge_runtime.provider_choice import PassedOver


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs. ``frames``, ``seconds``: end after so many; None: with the source. ``depth``: of the queue."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    ladder: LadderOptions = field(default_factory=LadderOptions)
    depth: int = 1
    frames: int | None = None
    seconds: float | None = None

    def check(self) -> None:
        """Raise InputError for numbers that cannot be."""
        self.schedule.check()
        if self.depth not in DEPTHS:
            raise InputError(f"depth is {self.depth}; the queue holds {' or '.join(map(str, DEPTHS))} frames")
        positive = (("timeout", self.engine.timeout), ("target-ms", self.ladder.target_ms))
        optional = (("frames", self.frames), ("seconds", self.seconds))
        for name, value in (*positive, *((name, value) for name, value in optional if value is not None)):
            if not value > 0:
                raise InputError(f"{name} is {value}; give a number above 0")


class LoopSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a loop did. ``audits`` and ``skipped`` count by kind (vg, ig, sg, road), ``events`` by name.

    ``problem`` says what went wrong at the end, if anything did; ``log`` as in :class:`LiveStatus`; ``passed_over`` is
    what ``--provider auto`` did not take.
    """

    bundle: str
    digest: str
    source: str
    ended: str
    counts: Counts
    images: int
    seconds: float
    audits: dict[str, int]
    skipped: dict[str, int]
    events: dict[str, int]
    latency: dict[str, LatencySummary]
    drift: dict[str, DriftState]
    step: str
    rebuilt: int
    log: dict[str, float | str | None]
    problem: str | None = None
    passed_over: tuple[PassedOver, ...] = ()
