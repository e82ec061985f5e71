"""The keeper: commits beside the loop, events that do not flood, records that fit no schema."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.log import EventRecord, FrameRecord, read
from edge_runtime.log.writer import Surroundings
from edge_runtime.loop import keeper as keeper_module
from edge_runtime.loop.keeper import FULLY_LOGGED, LogKeeper
from tests.edge_runtime.log_tools import hooked, storage_error
from tests.edge_runtime.loop.loop_tools import frames, open_audit_log, records


def never() -> bool:
    return False


def test_records_become_durable_without_the_callers_help(tiny: Bundle, tmp_path: Path) -> None:
    log = open_audit_log(tmp_path / "log", tiny)
    with LogKeeper(log, patient=False, stopping=never) as keeper:
        keeper.append(FrameRecord(frame_id="one"))
        deadline = time.monotonic() + 30
        while keeper.status()["acknowledged"] != 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert keeper.status() == {
            "path": str(tmp_path / "log"),
            "acknowledged": 1,
            "pending": 0,
            "lost": 0,
            "error": None,
        }
        keeper.append(FrameRecord(frame_id="two"))
    assert keeper.problem is None
    assert [frame.frame_id for frame in frames(tmp_path / "log")] == ["one", "two"]


def test_an_event_that_keeps_coming_is_logged_rarer_and_rarer(tiny: Bundle, tmp_path: Path) -> None:
    with LogKeeper(open_audit_log(tmp_path / "log", tiny), patient=False, stopping=never) as keeper:
        for number in range(1000):
            keeper.event("frame-failed", f"frame {number}", {"size": 3.0})
        keeper.event("started", "once")
    assert keeper.events == {"frame-failed": 1000, "started": 1}
    found = [entry.record for entry in read(tmp_path / "log")]
    counts = [event.data.get("count") for event in found if isinstance(event, EventRecord)]
    assert counts == [None] * FULLY_LOGGED + [32.0, 64.0, 128.0, 256.0, 512.0, None]


def test_a_record_that_fits_no_schema_is_counted_and_told_once(tiny: Bundle, tmp_path: Path) -> None:
    with LogKeeper(open_audit_log(tmp_path / "log", tiny), patient=False, stopping=never) as keeper:
        for _ in range(3):
            keeper.append(FrameRecord(frame_id="x" * 100_000))
        keeper.append(FrameRecord(frame_id="fits"))
    assert keeper.refused == 3
    assert [type(record).__name__ for record in records(tmp_path / "log")] == ["EventRecord", "FrameRecord"]


def test_without_a_log_events_are_counted(tmp_path: Path) -> None:
    with LogKeeper(None, patient=True, stopping=never) as keeper:
        keeper.event("started", "")
        keeper.append(FrameRecord(frame_id="nowhere"))
    assert (keeper.events, keeper.status(), keeper.problem) == ({"started": 1}, {}, None)


def test_a_replay_waits_for_a_slow_disk_but_not_for_a_full_one(tiny: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(keeper_module, "MOST_WAITING", 10)
    monkeypatch.setattr(keeper_module, "COMMIT_SECONDS", 0.05)
    with LogKeeper(open_audit_log(tmp_path / "slow", tiny), patient=True, stopping=never) as keeper:
        for number in range(200):
            keeper.append(FrameRecord(frame_id=str(number)))
            assert int(keeper.status()["pending"] or 0) <= 11
    assert len(records(tmp_path / "slow")) == 200
    full = [False]

    def disk(kind: str, *_: Any) -> BaseException | None:
        return storage_error(apsw.SQLITE_FULL) if kind == "write" and full[0] else None

    with hooked(disk) as vfs:
        log = open_audit_log(tmp_path / "full", tiny, surroundings=Surroundings(vfs=vfs))
        full[0] = True
        with LogKeeper(log, patient=True, stopping=never) as keeper:
            for number in range(100):
                keeper.append(FrameRecord(frame_id=str(number)))
            full[0] = False
    assert len(records(tmp_path / "full")) == 100


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_keeper_that_dies_does_not_pass_for_one_that_kept(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_audit_log(tmp_path / "log", tiny)
    monkeypatch.setattr(keeper_module, "COMMIT_SECONDS", 0.01)
    monkeypatch.setattr(log, "commit", lambda: 1 / 0)
    with LogKeeper(log, patient=False, stopping=never) as keeper:
        keeper.append(FrameRecord(frame_id="kept in memory"))
        keeper._thread.join(10)
    assert keeper.problem is not None and "1 records could not be stored" in keeper.problem
    log.close()


def test_what_comes_after_the_end_is_refused_in_silence(tiny: Bundle, tmp_path: Path) -> None:
    """A camera's thread may report once more when the log is closed already."""
    with LogKeeper(open_audit_log(tmp_path / "log", tiny), patient=False, stopping=never) as keeper:
        keeper.event("started", "")
    keeper.event("source-lost", "too late")
    assert keeper.refused == 1
    assert len(records(tmp_path / "log")) == 1
