"""The log on a failing disk: nothing acknowledged is lost, nothing lost is acknowledged, and losses are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge_runtime.errors import LogError
from edge_runtime.log import Anchor, FrameRecord, Group, Lost, read, verify
from edge_runtime.log.snapshot import wal_path
from edge_runtime.log.store import MIN_BYTES
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


class Switch:
    """A hook that fails every operation of one kind while it is on."""

    def __init__(self, kind: str, code: int) -> None:
        self.kind, self.code, self.on = kind, code, False
        self.when_failing: Callable[[], None] = lambda: None

    def __call__(self, kind: str, *_: Any) -> BaseException | None:
        if kind != self.kind or not self.on:
            return None
        self.when_failing()
        return storage_error(self.code)


def test_a_full_disk_costs_what_the_buffer_cannot_hold_and_logging_resumes(tmp_path: Path) -> None:
    path, disk = tmp_path / "audit.log", Switch("write", apsw.SQLITE_FULL)
    group = Group(records=4, seconds=1e9, buffer=10)
    with hooked(disk) as vfs, open_log(path, vfs, group=group) as log:
        log.append(frame(0))
        assert log.commit() == 1
        disk.on = True
        for number in range(1, 31):
            log.append(frame(number))
        assert log.commit() == 1, "nothing is acknowledged while the disk is full"
        status = log.status
        assert status.error == "SQLITE_FULL"
        assert status.lost + status.pending == 30
        assert status.lost > 0
        disk.on = False
        assert log.commit() == 1 + status.pending + 1
        assert log.status.error is None
    gaps = [entry.record for entry in read(path, kind="lost")]
    assert [gap.count for gap in gaps if isinstance(gap, Lost)] == [status.lost]
    assert verify(path).ok


def test_a_transaction_whose_sync_failed_is_stored_once(tmp_path: Path) -> None:
    """All its bytes are in the file, only the sync failed: reopening finds it, makes it durable, acknowledges it."""
    path, disk = tmp_path / "audit.log", Switch("sync", apsw.SQLITE_IOERR_FSYNC)
    with hooked(disk) as vfs, open_log(path, vfs) as log:
        log.append(frame(0))
        log.commit()
        disk.on = True
        log.append(frame(1))
        assert log.commit() == 1
        assert log.commit() == 1, "reopening needs a sync as well"
        disk.on = False
        log.append(frame(2))
        assert log.commit() == 3
    assert [entry.record.frame_id for entry in read(path) if isinstance(entry.record, FrameRecord)] == [
        "frame-0",
        "frame-1",
        "frame-2",
    ]


def test_a_log_that_lost_acknowledged_records_acknowledges_nothing_more(tmp_path: Path) -> None:
    """The disk fails a sync and drops what was synced before: a broken disk, and no reason to carry on as if not."""
    path, disk = tmp_path / "audit.log", Switch("sync", apsw.SQLITE_IOERR_FSYNC)
    disk.when_failing = lambda: wal_path(path).write_bytes(b"")
    with hooked(disk) as vfs:
        log = open_log(path, vfs)
        for number in range(3):
            log.append(frame(number))
            log.commit()
        disk.on = True
        log.append(frame(3))
        log.commit()
        disk.on = False
        for _ in range(2):
            assert log.commit() == 3
            assert "ends at record 0 after a storage error, not at the acknowledged 3" in str(log.status.error)
        with pytest.raises(LogError, match="1 records could not be stored at the end"):
            log.close()
    assert "its end is missing" in str(verify(path).problem)


def test_closing_on_a_full_disk_says_what_is_lost(tmp_path: Path) -> None:
    path, disk = tmp_path / "audit.log", Switch("write", apsw.SQLITE_FULL)
    with hooked(disk) as vfs:
        log = open_log(path, vfs)
        log.append(frame(0))
        log.commit()
        log.append(frame(1))
        disk.on = True
        with pytest.raises(LogError, match="1 records could not be stored at the end"):
            log.close()
        disk.on = False
        with open_log(path, vfs) as log:
            assert log.head.sequence == 1
    assert verify(path).ok


def test_a_log_cannot_be_created_on_a_full_disk(tmp_path: Path) -> None:
    path, disk = tmp_path / "audit.log", Switch("write", apsw.SQLITE_FULL)
    disk.on = True
    with hooked(disk) as vfs:
        with pytest.raises(LogError, match="cannot be opened"):
            open_log(path, vfs)
        disk.on = False
        with open_log(path, vfs) as log:
            log.append(frame(0))
    assert verify(path).records == 1


def test_an_existing_log_opens_on_a_full_disk_and_writes_once_there_is_space(tmp_path: Path) -> None:
    path, disk = fill(tmp_path / "audit.log", 3), Switch("write", apsw.SQLITE_FULL)
    disk.on = True
    with hooked(disk) as vfs, open_log(path, vfs) as log:
        log.append(frame(3))
        assert log.commit() == 3
        disk.on = False
        assert log.commit() == 4
    assert verify(path).records == 4


def test_the_wal_stays_within_the_cap_when_the_database_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    on = [False]

    def database_is_full(kind: str, name: str, *_: Any) -> BaseException | None:
        return storage_error(apsw.SQLITE_FULL) if on[0] and (kind, name) == ("write", "audit.log") else None

    with hooked(database_is_full) as vfs, open_log(path, vfs, group=Group(records=8, seconds=1e9, buffer=16)) as log:
        on[0] = True
        for number in range(600):
            log.append(frame(number, 3000))
        log.commit()
        assert log.status.lost > 0
        assert log.status.error
        assert sum(part.stat().st_size for part in tmp_path.iterdir()) <= MIN_BYTES
        on[0] = False
        log.commit()
        assert log.status.error is None
    result = verify(path)
    assert result.ok
    assert result.lost == log.status.lost
