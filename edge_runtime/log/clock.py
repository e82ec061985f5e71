"""The clocks that stamp records: wall time may jump, monotonic time may not but starts anew with every boot."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Steps below this are the clock's ordinary slewing and the two clocks' reading one after the other.
STEP_SECONDS = 0.5


@functools.cache
def _boot_id() -> str | None:
    """Return the boot's id; read once, for no process outlives its boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None  # only Linux names its boots


@dataclass(frozen=True)
class Clock:
    """Wall and monotonic time in nanoseconds, and the id of the boot in which the monotonic time counts."""

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    boot_id: Callable[[], str | None] = _boot_id


@dataclass(frozen=True)
class Moment:
    """One reading of a :class:`Clock`."""

    wall_ns: int
    monotonic_ns: int
    boot_id: str | None


def step_seconds(before: Moment | None, now: Moment) -> float | None:
    """Return by how much the wall clock was set since ``before`` (negative: backwards), or None if it was not.

    Within a boot the monotonic clock tells; across boots only a wall clock that stands before the last record does.
    """
    if before is None:
        return None
    elapsed = now.wall_ns - before.wall_ns
    if before.boot_id == now.boot_id and now.monotonic_ns >= before.monotonic_ns:
        step = elapsed - (now.monotonic_ns - before.monotonic_ns)
    else:
        step = min(elapsed, 0)
    return step / 1e9 if abs(step) > STEP_SECONDS * 1e9 else None
