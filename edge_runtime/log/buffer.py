"""Records between ``append`` and their commit: stamped, bounded, and counted when they must be dropped."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from edge_runtime.log.clock import Clock, Moment, step_seconds
from edge_runtime.log.record import Encoded, Lost, Stamp


@dataclass(frozen=True)
class Group:
    """When an append commits: at ``records`` waiting, or ``seconds`` after the first. ``buffer`` bounds what waits."""

    records: int = 32
    seconds: float = 0.5
    buffer: int = 4096


@dataclass(frozen=True)
class Entry:
    """One record with its stamp, ready to be chained."""

    encoded: Encoded
    stamp: Stamp


class Buffer:
    """The waiting records, oldest first. Every method is safe to call from any thread."""

    def __init__(self, group: Group, clock: Clock, identity: str) -> None:
        self._group = group
        self._clock = clock
        self._identity = identity
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._due_at: float | None = None
        self._not_before = 0.0
        self._before: Moment | None = None
        self._dropped: deque[int] = deque()  # wall times of the records that no gap record tells of yet
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, encoded: Encoded) -> bool:
        """Stamp and keep one record, drop the oldest beyond the bound; say whether a commit is due."""
        with self._lock:
            self._waiting.append(Entry(encoded, self._stamp()))
            while len(self._waiting) > self._group.buffer:
                self._dropped.append(self._waiting.popleft().stamp.wall_ns)
                self.lost += 1
            now = time.monotonic()
            if self._due_at is None:
                self._due_at = now + self._group.seconds
            return now >= self._not_before and (len(self._waiting) >= self._group.records or now >= self._due_at)

    def stamp(self, encoded: Encoded) -> Entry:
        """Return a record of the log itself with the stamp of now."""
        with self._lock:
            return Entry(encoded, self._stamp())

    def _stamp(self) -> Stamp:
        now = Moment(self._clock.wall_ns(), self._clock.monotonic_ns(), self._clock.boot_id())
        step = step_seconds(self._before, now)
        self._before = now
        return Stamp(
            wall_ns=now.wall_ns,
            monotonic_ns=now.monotonic_ns,
            boot_id=now.boot_id,
            identity=self._identity,
            clock_step_seconds=step,
        )

    def continue_from(self, last: Stamp) -> None:
        """Compare the clock with that of the log's last record, written perhaps before the last boot."""
        self._before = Moment(last.wall_ns, last.monotonic_ns, last.boot_id)

    def take(self, most_bytes: int) -> list[Entry]:
        """Remove and return the oldest records that fit one transaction: at least one, if any waits."""
        with self._lock:
            taken: list[Entry] = []
            size = 0
            while self._waiting and (not taken or size + self._waiting[0].encoded.size <= most_bytes):
                size += self._waiting[0].encoded.size
                taken.append(self._waiting.popleft())
            if not self._waiting:
                self._due_at = None
            return taken

    def postpone(self) -> None:
        """After a failure: let appends try again no sooner than one group interval from now."""
        with self._lock:
            self._not_before = time.monotonic() + self._group.seconds

    def losses(self, reason: str) -> Lost | None:
        """Return the gap record for what was dropped, None if nothing was."""
        with self._lock:
            if not self._dropped:
                return None
            return Lost(
                count=len(self._dropped), first_wall_ns=self._dropped[0], last_wall_ns=self._dropped[-1], reason=reason
            )

    def told(self, count: int) -> None:
        """Forget the oldest ``count`` losses: a gap record tells of them now."""
        with self._lock:
            for _ in range(count):
                self._dropped.popleft()
