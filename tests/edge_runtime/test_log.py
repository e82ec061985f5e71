"""The audit log in ordinary use: what goes in comes out, groups, caps, clocks, versions, and bad input."""

from __future__ import annotations

import math
import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import apsw
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.device import DeviceReadings
from edge_runtime.errors import LogError
from edge_runtime.log import (
    Anchor,
    AuditLog,
    EventRecord,
    Evicted,
    ExplainerReading,
    FrameRecord,
    Group,
    Lost,
    RoadWindow,
    read,
    verify,
)
from edge_runtime.log.anchor_file import anchor_path, read_anchor
from edge_runtime.log.clock import Moment, step_seconds
from edge_runtime.log.record import Stamp, decode_body, encode_body, encode_record
from edge_runtime.log.snapshot import wal_path
from edge_runtime.log.store import MIN_BYTES
from edge_runtime.log.writer import Surroundings
from edge_runtime.variant import Variant
from tests.edge_runtime.log_tools import EVERY_CALL, IDENTITY, Watch, copy_log, fill, frame, hooked, open_log

FULL = FrameRecord(
    frame_id="camera0/000123",
    prediction=14,
    label="stop",
    probability=0.987,
    latency_ms={"decode": 1.5, "classify": 4.25, "explain": 30.0},
    explainers={
        "vg": ExplainerReading(gini=0.57, gradient_norm=12.5, reduction="sum_abs"),
        "ig": ExplainerReading(gini=0.67, gradient_norm=3.5, completeness_gap=1e-4, reduction="sum_abs"),
        "sg": ExplainerReading(gini=0.56, gradient_norm=9.0, reduction="sum_abs", seed=7),
    },
    road=(
        RoadWindow(
            measure="agreement",
            method="vg",
            order="morf",
            percentages=(1.0, 11.0, 21.0),
            scores=(0.98, 0.72, None),
            auc=0.5,
            images=32,
        ),
    ),
    device=DeviceReadings(hottest_celsius=51.5, power_watts=7.6, power_source="VDD_IN", throttled=False),
    saliency_method="vg",
    image=b"jpeg",
    saliency=b"png",
)


def records(path: Path) -> list[object]:
    return [entry.record for entry in read(path)]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    event = EventRecord(name="degraded", message="ROAD dropped", data={"queue": 2, "since": "frame 7", "load": None})
    with AuditLog(path, IDENTITY) as log:
        log.append(FULL)
        log.append(event)
    assert records(path) == [FULL, event]
    entry = next(read(path))
    assert (entry.sequence, entry.kind, entry.identity) == (1, "frame", IDENTITY)
    assert entry.stamp.wall_ns > 1.6e18
    assert entry.stamp.monotonic_ns > 0
    assert entry.stamp.clock_step_seconds is None
    assert not wal_path(path).exists(), "a closed log is one file and its anchor"


def test_names_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    path = fill(tmp_path / "a log?mode=ro&x=%41#1.log", 3)
    assert len(records(path)) == 3
    assert verify(path).ok
    assert [part.name for part in tmp_path.iterdir() if not part.name.endswith("-anchor")] == [path.name]


def test_commit_acknowledges_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        assert (log.head.sequence, log.commit()) == (0, 0)
        log.append(frame(1))
        log.append(frame(2))
        assert (log.status.acknowledged, log.status.pending) == (0, 2)
        assert log.commit() == 2
        assert (log.status.acknowledged, log.status.pending, log.status.error) == (2, 0, None)
        assert read_anchor(path) == log.head


def test_groups_commit_by_number_and_by_time(tmp_path: Path) -> None:
    with open_log(tmp_path / "number", group=Group(records=4, seconds=1e9)) as log:
        acknowledged = []
        for number in range(9):
            log.append(frame(number))
            acknowledged.append(log.status.acknowledged)
    assert acknowledged == [0, 0, 0, 4, 4, 4, 4, 8, 8]
    with open_log(tmp_path / "time", group=Group(records=10**9, seconds=0)) as log:
        log.append(frame(0))
        assert log.status.acknowledged == 1


def test_a_log_continues_where_it_ended(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit.log", 5)
    with open_log(path) as log:
        assert log.head.sequence == 5
        log.append(frame(5))
    assert [entry.sequence for entry in read(path)] == [1, 2, 3, 4, 5, 6]
    assert verify(path).ok


def test_a_crashed_log_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        for number in range(3):
            log.append(frame(number))
            log.commit()
        crashed = copy_log(path, tmp_path / "crashed")
    with open_log(crashed) as log:
        assert log.head.sequence == 3
        log.append(frame(3))
    assert verify(crashed).records == 4


def test_appending_and_committing_from_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path, max_bytes=8 << 20, group=Group(records=5)) as log:

        def work(thread: int) -> None:
            for number in range(50):
                log.append(frame(thread * 1000 + number))
                if number % 7 == 0:
                    log.commit()

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ids = [entry.record.frame_id for entry in read(path) if isinstance(entry.record, FrameRecord)]
    assert sorted(ids) == sorted(f"frame-{t * 1000 + n}" for t in range(4) for n in range(50))
    assert verify(path).ok


def test_the_byte_cap_holds_at_every_moment_and_leaves_gap_records(tmp_path: Path) -> None:
    path, largest = tmp_path / "audit.log", 0
    with open_log(path) as log:
        for number in range(1200):
            log.append(frame(number, 0 if number % 3 else 4000))
            if number % 5 == 4:
                log.commit()
                assert log.status.error is None
                largest = max(largest, sum(part.stat().st_size for part in tmp_path.iterdir()))
    assert MIN_BYTES / 2 < largest <= MIN_BYTES
    result = verify(path)
    assert result.ok
    assert result.evicted > 100
    entries = list(read(path))
    gaps = [entry.record for entry in entries if isinstance(entry.record, Evicted)]
    assert gaps[-1].last == entries[0].sequence - 1
    assert all(after.first == before.last + 1 for before, after in pairwise(gaps))
    newest = entries[-1].record
    assert isinstance(newest, FrameRecord)
    assert newest.frame_id == "frame-1199"


def test_records_too_fast_for_the_buffer_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path, group=Group(records=10**9, seconds=1e9, buffer=10)) as log:
        for number in range(25):
            log.append(frame(number))
        assert log.status.lost == 15
    found = records(path)
    gap = found[0]
    assert isinstance(gap, Lost)
    assert gap.count == 15
    assert 0 < gap.first_wall_ns <= gap.last_wall_ns
    assert [entry.frame_id for entry in found[1:] if isinstance(entry, FrameRecord)] == [
        f"frame-{number}" for number in range(15, 25)
    ]
    assert verify(path).lost == 15


def test_a_live_log_can_be_read_and_verified_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    stop, problems, checks = threading.Event(), [], 0
    # Without real syncs the writer is fast enough to start its WAL anew again and again during the checks.
    with hooked(lambda *_: None) as vfs, open_log(path, vfs) as log:

        def write() -> None:
            number = 0
            while not stop.is_set():
                log.append(frame(number, 3000))
                log.commit()
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        while checks < 20 or log.head.sequence < 600:
            known = log.head
            try:
                result = verify(path, anchor=known)
            except LogError as busy:  # a checkpoint came between each copy and its check, as a reader is told
                assert "changes faster than it can be copied" in str(busy)
                continue
            problems += [result.problem] if not result.ok else []
            checks += 1
        stop.set()
        writer.join()
        assert log.status.error is None
    assert problems == []


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_flagged_and_never_a_number(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    bad = FrameRecord(
        frame_id="nan",
        probability=float("nan"),
        latency_ms={"classify": float("inf"), "explain": 1.0},
        explainers={"vg": ExplainerReading(gini=np.float32("nan"), gradient_norm=-math.inf)},  # type: ignore[arg-type]
        road=(RoadWindow(measure="accuracy", method="vg", order="lerf", percentages=(1.0,), scores=(math.nan,)),),
        flags=("logits: not finite",),
    )
    with AuditLog(path, IDENTITY) as log:
        log.append(bad)
        log.append(EventRecord(name="drift", data={"z": math.nan}))
    first, second = records(path)
    assert isinstance(first, FrameRecord)
    assert isinstance(second, EventRecord)
    assert first.flags == (
        "logits: not finite",
        "probability: nan",
        "latency_ms.classify: inf",
        "explainers.vg.gini: nan",
        "explainers.vg.gradient_norm: -inf",
        "road[0].scores[0]: nan",
    )
    assert first.probability is None
    assert first.latency_ms == {"classify": None, "explain": 1.0}
    assert first.explainers["vg"] == ExplainerReading()
    assert first.road[0].scores == (None,)
    assert (second.data, second.flags) == ({"z": None}, ("data.z: nan",))
    stored = apsw.Connection(f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    kinds = "SELECT json_type(body, '$.data.explainers.vg.gini'), json_type(body, '$.data.probability') FROM record"
    assert stored.execute(kinds + " WHERE sequence = 1").get == ("null", "null")
    stored.close()


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_finite_double_survives_bit_for_bit(double: float, single: float) -> None:
    record = FrameRecord(frame_id="x", probability=double, latency_ms={"a": np.float32(single)})  # type: ignore[dict-item]
    encoded = encode_record(record)
    stamp = Stamp(wall_ns=1, monotonic_ns=2, boot_id=None, identity="0" * 64)
    body = encode_body(stamp, encoded.data)
    _, decoded = decode_body(encoded.kind, body, None, None)
    assert isinstance(decoded, FrameRecord)
    assert decoded.probability is not None
    assert decoded.probability.hex() == double.hex()
    assert decoded.latency_ms["a"] == single
    assert encode_record(decoded) == encoded, "equal records have equal bytes"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (FrameRecord(frame_id=3), r"Expected `str`, got `int` - at `\$.frame_id`"),  # type: ignore[arg-type]
        (FrameRecord(frame_id="x", probability="high"), r"at `\$.probability`"),  # type: ignore[arg-type]
        (FrameRecord(frame_id="x", explainers={"gradcam": ExplainerReading()}), "gradcam"),  # type: ignore[dict-item]
        (FrameRecord(frame_id="x", latency_ms={"a": object()}), "object is no plain value"),  # type: ignore[dict-item]
        (FrameRecord(frame_id="x", latency_ms={"a": np.zeros(3)}), "ndarray is no plain value"),  # type: ignore[dict-item]
        (FrameRecord(frame_id="\ud800"), "surrogates not allowed"),
        (FrameRecord(frame_id="x" * 40_000), "its fields take 400.. bytes, at most 32768"),
        (FrameRecord(frame_id="x", image=bytes(20_000)), "its image take 20000 bytes"),
        ({"frame_id": "x"}, "cannot log a dict; known kinds: event, evicted, frame, lost"),
    ],
)
def test_records_that_fit_no_schema_are_refused(record: FrameRecord, message: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with AuditLog(path, IDENTITY) as log:
        with pytest.raises(LogError, match=message):
            log.append(record)
        log.append(frame(1))
    assert len(records(path)) == 1


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_backwards_is_noted_and_the_order_kept(tmp_path: Path) -> None:
    path, watch = tmp_path / "audit.log", Watch()
    with AuditLog(path, IDENTITY, group=EVERY_CALL, surroundings=Surroundings(clock=watch.clock())) as log:
        for wall_seconds in (1.0, 1.0, -3600.0, 1.0, 90.0, 1.2):
            watch.advance(1.0, wall_seconds)
            log.append(frame(int(watch.monotonic)))
            log.commit()
    entries = list(read(path))
    assert [entry.stamp.clock_step_seconds for entry in entries] == [None, None, -3601.0, None, 89.0, None]
    assert [entry.stamp.monotonic_ns for entry in entries] == sorted(entry.stamp.monotonic_ns for entry in entries)
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4, 5, 6]
    result = verify(path)
    assert result.ok
    assert result.clock_steps == 2


def test_a_clock_behind_the_last_record_after_a_reboot_is_noted(tmp_path: Path) -> None:
    path, watch = tmp_path / "audit.log", Watch()
    with AuditLog(path, IDENTITY, surroundings=Surroundings(clock=watch.clock())) as log:
        log.append(frame(1))
    watch.boot, watch.monotonic, watch.wall = "second", 10**9, 0  # no battery: the clock starts in 1970
    with AuditLog(path, IDENTITY, surroundings=Surroundings(clock=watch.clock())) as log:
        log.append(frame(2))
    step = list(read(path))[1].stamp.clock_step_seconds
    assert step == -1_800_000_000.0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Moment(2_000, 2_000, "a"), None),
        (Moment(1_000 + 4 * 10**9, 1_000, "a"), 4.0),
        (Moment(9 * 10**9, 10**9, "b"), None),  # another boot: later is plausible
        (Moment(9 * 10**9, 500, "a"), None),  # the monotonic clock went back: no elapsed time to compare with
    ],
)
def test_clock_steps(now: Moment, expected: float | None) -> None:
    assert step_seconds(Moment(1_000, 1_000, "a"), now) == expected
    assert step_seconds(None, now) is None


# --- identity, key, anchor --------------------------------------------------------------------------------------------


def test_a_new_bundle_in_the_same_log(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit.log", 2)
    variant = Variant(dataset="rendered", architecture="vgg16", pruning="channel", amount=0.5, timing="post")
    other = type(IDENTITY)(software="roadworthy test", bundle="pruned", bundle_digest="cd" * 32, variant=variant)
    with AuditLog(path, other) as log:
        log.append(frame(2))
    assert [entry.identity.bundle for entry in read(path)] == ["signs", "signs", "pruned"]
    assert list(read(path))[-1].identity.variant == variant


def test_the_head_is_an_anchor(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        log.append(frame(1))
        log.commit()
        anchor = log.head
    assert Anchor.parse(str(anchor)) == anchor
    assert verify(path, anchor=anchor).checked_by == ("head", "anchor")
    assert not verify(path, anchor=Anchor(1, bytes(32))).ok


@pytest.mark.parametrize("text", ["", "12", "x:" + "0" * 64, "1:" + "0" * 63, "-1:" + "0" * 64])
def test_what_is_no_anchor(text: str) -> None:
    with pytest.raises(LogError, match="is no anchor; it looks like"):
        Anchor.parse(text)


def test_an_unreadable_anchor_file_is_ignored_and_replaced(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit.log", 2)
    anchor_path(path).write_bytes(b"\xff\x00torn")
    assert verify(path).checked_by == ("head",)
    with open_log(path) as log:
        log.append(frame(3))
    assert verify(path).checked_by == ("head", "anchor")


def test_a_log_behind_its_anchor_says_so_in_its_next_record(tmp_path: Path) -> None:
    older = copy_log(fill(tmp_path / "audit.log", 3), tmp_path / "older")
    newer = fill(tmp_path / "audit.log", 3)
    anchor_path(older).write_text(str(read_anchor(newer)))
    with open_log(older) as log:
        log.append(frame(9))
    events = [record for record in records(older) if isinstance(record, EventRecord)]
    assert [event.name for event in events] == ["anchor-mismatch"]
    assert "acknowledged records are missing" in events[0].message


def test_an_anchor_file_that_cannot_be_written_is_told_but_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    anchor_path(path).mkdir()
    with open_log(path) as log:
        log.append(frame(1))
        assert log.commit() == 1
        assert "cannot be written: Is a directory" in str(log.status.error)


# --- bad files --------------------------------------------------------------------------------------------------------


def rewrite(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def make_newer(path: Path) -> None:
    rewrite(fill(path, 1), "PRAGMA user_version = 2")


def make_unknown(path: Path) -> None:
    rewrite(fill(path, 1), "PRAGMA user_version = 0")


def make_other_database(path: Path) -> None:
    rewrite(path, "CREATE TABLE t (x)")


def make_text(path: Path) -> None:
    path.write_text("no database at all, but long enough to be mistaken for one\n" * 20)


def make_cut(path: Path) -> None:
    rewrite(fill(path, 9), "DELETE FROM record WHERE sequence > 5")


def make_altered(path: Path) -> None:
    rewrite(fill(path, 9), "UPDATE record SET body = replace(body, 'stop', 'yield') WHERE sequence = 8")


BAD_FILES = {
    make_newer: ("has schema 2, of a newer roadworthy; this one reads up to 1: update it", None),
    make_unknown: ("has schema 0, which no release has written", None),
    make_other_database: ("is a database but no audit log", None),
    make_text: ("cannot be opened: file is not a database", "is no audit log"),
}


@pytest.mark.parametrize("make", BAD_FILES)
def test_files_that_are_no_log_of_this_version(make: object, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    writing, reading = BAD_FILES[make]  # type: ignore[index]
    make(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(LogError, match=writing):
        open_log(path)
    for look in (lambda: list(read(path)), lambda: verify(path)):
        with pytest.raises(LogError, match=reading or writing):
            look()
    assert path.read_bytes() == before


@pytest.mark.parametrize(("make", "message"), [(make_cut, "ends at record 5"), (make_altered, "record 8 was altered")])
def test_a_damaged_log_is_not_continued(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    make(path)  # type: ignore[operator]
    with pytest.raises(LogError, match=message):
        open_log(path)


def test_reading_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="does not exist; give the log file"):
        verify(tmp_path / "none.log")
    with pytest.raises(LogError, match="does not exist; give the log file"):
        verify(tmp_path)
    (tmp_path / "empty.log").touch()
    with pytest.raises(LogError, match="is empty: nothing was ever logged"):
        list(read(tmp_path / "empty.log"))


def test_places_where_no_log_can_be(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be opened: No such file or directory; choose"):
        open_log(tmp_path / "no" / "folder" / "audit.log")
    with pytest.raises(LogError, match="cannot be opened: Is a directory"):
        open_log(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """SQLite takes no such path for writing, JSON no such vehicle; both are said before anything is made."""
    path = tmp_path / os.fsdecode(b"\xe9.db")
    with pytest.raises(LogError, match=r"xe9\.db is no name in UTF-8, which SQLite needs; choose another"):
        AuditLog(path, IDENTITY)
    with pytest.raises(LogError, match=r"cannot hold the name 'v\\udce9', which is no UTF-8; use another"):
        AuditLog(tmp_path / "audit.db", msgspec.structs.replace(IDENTITY, vehicle="v\udce9"))
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "audit.db", 3).rename(path)
    assert verify(path).ok and len(list(read(path))) == 3


def test_a_file_that_is_removed_takes_no_more_records(tmp_path: Path) -> None:
    """Such a file takes every write and keeps none; one that was moved is written again once it is back."""
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    log = open_log(folder / "audit.log")
    log.append(frame(1))
    assert log.commit() == 1
    folder.rename(away)
    log.append(frame(2))
    assert log.commit() == 1
    assert log.status.pending == 1
    assert log.status.error == "the file was moved or removed while it was written; put it back, or start anew"
    away.rename(folder)
    assert log.commit() == 2 and log.status.error is None
    shutil.rmtree(folder)
    with pytest.raises(LogError, match="records could not be stored at the end: the file was moved or removed"):
        log.close()
    assert not folder.exists()


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        with pytest.raises(LogError, match="is being written already"):
            open_log(path)
        log.append(frame(1))
        assert log.commit() == 1
    open_log(path).close()


def test_a_log_that_another_program_holds_open(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit.log", 2)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogError, match=r"cannot be opened: .*locked"):
        open_log(path)
    other.close(True)
    open_log(path).close()
    assert verify(path).ok


def test_caps_that_are_too_small(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="a log of 1000 bytes is too small; give it at least 1048576"):
        open_log(tmp_path / "audit.log", max_bytes=1000)
    path = fill(tmp_path / "large.log", 600, 3000, max_bytes=4 << 20)
    with pytest.raises(LogError, match=r"already holds \d+ bytes, more than this cap"):
        open_log(path)


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path / "audit.log")
    log.close()
    log.close()
    with pytest.raises(LogError, match="is closed"):
        log.append(frame(1))
    assert log.commit() == 0


def test_the_last_records_and_one_kind(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        for number in range(6):
            log.append(frame(number))
            log.append(EventRecord(name=f"event-{number}"))
    assert [entry.sequence for entry in read(path, last=3)] == [10, 11, 12]
    assert [entry.sequence for entry in read(path, last=2, kind="frame")] == [9, 11]
    assert len(list(read(path, last=100))) == 12
