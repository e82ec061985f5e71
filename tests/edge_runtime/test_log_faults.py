"""The log on a failing disk: nothing acknowledged is lost, nothing lost is acknowledged, and losses are counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge_runtime.errors import LogError
from edge_runtime.log import Anchor, FrameRecord, Group, Lost, read, verify
from tests.edge_runtime.log_tools import copy_log, fill, frame, hooked, open_log, storage_error

# What can go wrong at which operation.
FAULTS: dict[str, tuple[str, int]] = {
    "disk full": ("write", apsw.SQLITE_FULL),
    "write error": ("write", apsw.SQLITE_IOERR_WRITE),
    "sync error": ("sync", apsw.SQLITE_IOERR_FSYNC),
    "truncate error": ("truncate", apsw.SQLITE_IOERR_TRUNCATE),
    "delete error": ("delete", apsw.SQLITE_IOERR_DELETE),
}
BATCHES, BATCH, PICTURE = 6, 4, 3000
FIRST_NEW = 1000  # the log was filled with frames of lower numbers
DURATIONS = (1, 30)  # failing operations in a row: a glitch, and a fault that outlasts several commits
POSITIONS = 24  # per duration, spread over the whole run


@pytest.fixture(scope="module")
def full_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log at its byte cap, so that every further commit evicts."""
    path = fill(tmp_path_factory.mktemp("full") / "audit.log", 400, PICTURE)
    assert verify(path).evicted > 0
    return path


class Fault:
    """A hook that fails operations number ``at`` to ``at + length - 1`` of one kind, and counts all."""

    def __init__(self, kind: str, code: int, at: int, length: int) -> None:
        self.kind, self.code, self.range = kind, code, range(at, at + length)
        self.count = 0
        self.repaired = False

    def __call__(self, kind: str, *_: Any) -> BaseException | None:
        if kind != self.kind:
            return None
        self.count += 1
        fails = self.count - 1 in self.range and not self.repaired
        return storage_error(self.code) if fails else None


def run_with_fault(path: Path, fault: Fault) -> tuple[int, int]:
    """Log while the fault strikes; check the promises; return the records appended and those reported lost."""
    appended = reported_lost = 0
    acknowledged: Anchor | None = None
    with hooked(fault) as vfs:
        for _ in range(BATCHES):
            try:
                log = open_log(path, vfs, group=Group(records=10**9, seconds=1e9, buffer=2 * BATCH))
                break
            except LogError:
                continue
        else:
            fault.repaired = True
            log = open_log(path, vfs)
        for number in range(BATCHES * BATCH):
            log.append(frame(FIRST_NEW + number, PICTURE))
            appended += 1
            if number % BATCH == BATCH - 1:
                before = log.head
                sequence = log.commit()
                status = log.status
                assert sequence == status.acknowledged == log.head.sequence
                if status.error is None:
                    assert status.pending == 0
                if log.head != before:
                    acknowledged = log.head
                    # Right now, from a copy: what is acknowledged is in the file.
                    assert verify(path, anchor=acknowledged).ok
        fault.repaired = True
        assert log.commit() == log.head.sequence
        assert log.status.pending == 0, log.status
        assert log.status.error is None
        reported_lost = log.status.lost
        acknowledged = log.head
        log.close()
    result = verify(path, anchor=acknowledged)
    assert result.ok, result.problem
    return appended, reported_lost


@pytest.mark.parametrize("name", FAULTS)
def test_every_operation_may_fail(name: str, full_log: Path, tmp_path: Path) -> None:
    kind, code = FAULTS[name]
    counter = Fault(kind, code, 0, 0)
    run_with_fault(copy_log(full_log, tmp_path / "count"), counter)
    stride = max(1, counter.count // POSITIONS)
    trials = losses = 0
    for length in DURATIONS:
        for at in range(0, max(counter.count, 1), stride):
            folder = tmp_path / f"{length}-{at}"
            path = copy_log(full_log, folder)
            appended, lost = run_with_fault(path, Fault(kind, code, at, length))
            entries = list(read(path))
            ids = [entry.record.frame_id for entry in entries if isinstance(entry.record, FrameRecord)]
            new = [name for name in ids if int(name.removeprefix("frame-")) >= FIRST_NEW]
            assert len(new) == len(set(new)), "a record was stored twice"
            assert sum(entry.record.count for entry in entries if isinstance(entry.record, Lost)) == lost
            assert len(new) + lost == appended
            losses += lost > 0
            trials += 1
            shutil.rmtree(folder)
    assert trials >= len(DURATIONS)
    # A fault that outlasts the buffer must have cost records somewhere, or the sweep tested too little.
    assert losses > 0 or kind not in ("write", "sync")
