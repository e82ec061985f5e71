"""Keeps the audit log beside the loop: storing happens in a thread of its own, so that no disk delays a frame."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from edge_runtime.errors import LogError
from edge_runtime.log import AuditLog, EventRecord, Group, Record

logger = logging.getLogger(__name__)

COMMIT_SECONDS = 0.5
# The loop alone never commits: the thread below does.
GROUP = Group(records=1 << 30, seconds=1e9)
# From so many waiting records on a replay waits for the disk; a live loop never does and loses the oldest, counted.
MOST_WAITING = GROUP.buffer // 2
CLOSING_SECONDS = 1.0
# Events of one name beyond so many are logged at every doubling of their number only.
FULLY_LOGGED = 16


class LogKeeper:
    """Appends to ``log`` (None: nowhere) and commits twice a second. A context manager whose end stores what waits.

    ``patient``: wait for a slow disk instead of losing records, as long as ``stopping`` is not true.
    """

    def __init__(self, log: AuditLog | None, *, patient: bool, stopping: Callable[[], bool]) -> None:
        self.events: dict[str, int] = {}
        self.refused = 0
        self.problem: str | None = None  # why records could not be stored at the end
        self._log = log
        self._patient = patient
        self._stopping = stopping
        self._closing, self._closed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="log", daemon=True)

    def __enter__(self) -> LogKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Store what waits and close the log; what comes later is refused."""
        self._closing.set()
        # A disk that hangs must not hold up the end of the process; what was acknowledged is safe.
        self._thread.join(CLOSING_SECONDS)
        if self._log is not None and not self._closed.is_set():
            self.problem = f"{self._log.path}: {self._log.status.pending} records could not be stored in time"

    def append(self, record: Record) -> None:
        """Hand over one record; what fits no schema is counted as refused, for no record is worth the loop."""
        if self._log is None:
            return
        try:
            self._log.append(record)
        except LogError as error:
            self.refused += 1
            with contextlib.suppress(LogError):  # a thread of the source may outlive the log
                if self.refused == 1:
                    self._log.append(EventRecord(name="record-refused", message=str(error)))
        while self._patient and not self._stopping() and self._crowded():
            time.sleep(COMMIT_SECONDS / 50)

    def event(self, name: str, message: str, data: dict[str, float | str | None] | None = None) -> None:
        """Log an event, here and by ``logging``; one that keeps coming is logged rarer and rarer, with its count."""
        with self._lock:
            count = self.events[name] = self.events.get(name, 0) + 1
        if count <= FULLY_LOGGED or count & (count - 1) == 0:
            counted = {"count": float(count)} if count > FULLY_LOGGED else {}
            message = message[:1000]
            logger.info("%s: %s", name, f"{message} ({count} times)" if counted else message)
            self.append(EventRecord(name=name, message=message, data={**(data or {}), **counted}))

    def status(self) -> dict[str, float | str | None]:
        """Say where the log stands, by the names of :class:`LogStatus`."""
        if self._log is None:
            return {}
        found = self._log.status
        return {
            "path": str(self._log.path),
            "acknowledged": found.acknowledged,
            "pending": found.pending,
            "lost": found.lost,
            "error": found.error,
        }

    def _crowded(self) -> bool:
        assert self._log is not None
        status = self._log.status
        return status.error is None and status.pending > MOST_WAITING

    def _keep(self) -> None:
        if self._log is None:
            return
        while not self._closing.wait(COMMIT_SECONDS):
            self._log.commit()
        try:
            self._log.close()
        except LogError as error:
            self.problem = str(error)
        self._closed.set()
