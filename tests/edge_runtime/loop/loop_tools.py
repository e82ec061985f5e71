"""What the loop's tests share: sources made of arrays, options that suit small numbers of frames, and logs to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle
from edge_runtime.log import AuditLog, EventRecord, FrameRecord, Record, read
from edge_runtime.log.frames import identity_of
from edge_runtime.loop import GROUP, EngineOptions, LoopOptions, LoopSummary, ScheduleOptions, VehicleLoop
from edge_runtime.sources.frame import Frame, Report

QUICK = LoopOptions(
    engine=EngineOptions(threads=1, timeout=20.0),
    schedule=ScheduleOptions(every=4, costly_every=3, road_images=3, road_window=20),
)


@dataclass
class ArraySource:
    """Frames from memory. ``pause``: seconds between two; ``each``: called with every number before its frame."""

    images: Iterable[NDArray[np.uint8]]
    live: bool = False
    pause: float = 0.0
    each: Callable[[int, Report], None] | None = None
    name: str = "arrays"
    failed: int = 0
    entered: int = 0

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        for number, image in enumerate(self.images):
            if stopping():
                return
            if self.each is not None:
                self.each(number, report)
            if self.pause:
                time.sleep(self.pause)
            yield Frame(f"frame-{number:05}", image, captured_ns=time.monotonic_ns())

    def __enter__(self) -> ArraySource:
        self.entered += 1
        return self

    def __exit__(self, *exception: object) -> None:
        self.entered -= 1


def open_audit_log(path: Path, bundle: Bundle, **options: Any) -> AuditLog:
    """Open a log as the command line does."""
    return AuditLog(path, identity_of(bundle, provider="cpu"), group=GROUP, **options)


def run(bundle: Bundle, source: ArraySource, path: Path | None = None, **options: Any) -> LoopSummary:
    """Run a loop over ``source`` with QUICK options but for ``options``, logging to ``path``."""
    log = None if path is None else open_audit_log(path, bundle)
    return VehicleLoop(bundle, source, replace(QUICK, **options), log=log).run()


def balanced(summary: LoopSummary) -> bool:
    """Say whether every frame is accounted for."""
    counts = summary.counts
    return counts.waiting == 0 and counts.produced == counts.processed + counts.dropped + counts.failed


def records(path: Path) -> list[Record]:
    return [entry.record for entry in read(path)]


def frames(path: Path) -> list[FrameRecord]:
    return [record for record in records(path) if isinstance(record, FrameRecord)]


def events(path: Path) -> list[EventRecord]:
    return [record for record in records(path) if isinstance(record, EventRecord)]


# What two replays of the same frames may differ in.
EXCLUDED = ("latency_ms", "device")


def comparable(path: Path) -> list[Record]:
    """Return the records without what depends on the clock."""
    nothing: dict[str, Any] = {"latency_ms": {}, "device": None}
    assert set(nothing) == set(EXCLUDED)
    return [
        msgspec.structs.replace(record, **nothing) if isinstance(record, FrameRecord) else record
        for record in records(path)
    ]
