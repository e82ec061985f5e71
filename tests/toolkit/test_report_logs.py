"""Finding and checking logs: whole ones become tables, the others are named with a reason."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from edge_runtime.errors import DataError
from edge_runtime.log.export import export_log
from tests.toolkit.fleet_logs import identity, write_log
from toolkit.report.logs import expand, gather, kind_of, split

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("logs") / "car.log", "car", 0)


def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_logs_are_known_by_their_bytes(log: Path, tmp_path: Path) -> None:
    renamed = shutil.copy(log, tmp_path / "audit")
    export_log(log, tmp_path / "export.parquet")
    shutil.move(tmp_path / "export.parquet", tmp_path / "table")
    with sqlite3.connect(tmp_path / "study.db") as other:
        other.execute("CREATE TABLE trial (value REAL)")
    (tmp_path / "audit.json").write_text("{}")
    (tmp_path / "audit-anchor").write_text("1:ab")
    kinds = {path.name: kind_of(path) for path in tmp_path.iterdir()}
    assert kinds == {"audit": "log", "table": "parquet", "study.db": None, "audit.json": None, "audit-anchor": None}
    assert kind_of(tmp_path / "none") is None
    assert split([tmp_path]) == ([Path(renamed), tmp_path / "table"], [tmp_path])
    assert split([tmp_path / "audit.json", Path(renamed)]) == ([Path(renamed)], [tmp_path / "audit.json"])


def test_a_log_that_its_writer_never_closed_is_found(tmp_path: Path) -> None:
    from edge_runtime.log import AuditLog, EventRecord

    log = AuditLog(tmp_path / "open", identity("car"))
    log.append(EventRecord(name="started"))
    log.commit()
    assert split([tmp_path])[0] == [tmp_path / "open"]
    found = gather([tmp_path / "open"], scratch(tmp_path))
    log.close()
    assert [file.last_sequence for file in found.files] == [1]


def test_patterns(log: Path, tmp_path: Path) -> None:
    for name in ("a/1.log", "a/2.log", "b/3.log", "b/x[1].log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(log, tmp_path / name)
    assert [path.name for path in expand([tmp_path / "**" / "*.log"])] == ["1.log", "2.log", "3.log", "x[1].log"]
    assert expand([tmp_path / "b" / "x[1].log"]) == [tmp_path / "b" / "x[1].log"], "a file's own name is no pattern"
    assert expand([tmp_path / "none"]) == [tmp_path / "none"]
    with pytest.raises(DataError, match="matches no file"):
        expand([tmp_path / "*.parquet"])


def test_whole_logs_become_tables_without_pictures(log: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_log(log, tmp_path / "x[1].parquet")
    told: list[tuple[str, int, int]] = []
    found = gather([log], scratch(tmp_path), lambda *what: told.append(what))
    assert found.problems == ()
    (file,) = found.files
    assert (file.kind, file.last_sequence, file.label) == ("log", 305, "car")
    assert parquet.read_table(file.table).num_rows == 305
    assert {what for what, _, _ in told} == {"checking logs", "reading logs"}
    shutil.rmtree(tmp_path / "scratch")
    (export,) = gather([tmp_path / "x[1].parquet"], scratch(tmp_path)).files
    assert (export.kind, export.last_sequence, export.log_id) == ("parquet", 305, file.log_id)
    assert parquet.read_table(export.table).num_rows == 305


def test_of_copies_the_longest_counts(log: Path, tmp_path: Path) -> None:
    from edge_runtime.log import AuditLog, EventRecord

    early, late = tmp_path / "early.log", tmp_path / "late.log"
    shutil.copy(log, early)
    export_log(early, tmp_path / "early.parquet")
    shutil.copy(log, late)
    with AuditLog(late, identity("car")) as longer:
        longer.append(EventRecord(name="one more"))
    found = gather([early, late, tmp_path / "early.parquet"], scratch(tmp_path))
    assert [file.path for file in found.files] == [late]
    assert [problem.path for problem in found.problems] == [early, tmp_path / "early.parquet"]
    assert all("the same log as" in problem.reason for problem in found.problems)


def tampered(log: Path, bad: Path) -> None:
    shutil.copy(log, bad)
    with sqlite3.connect(bad) as db:
        db.execute("""UPDATE record SET body = replace(body, '"label":"stop"', '"label":"go"') WHERE sequence = 7""")
    db.close()


def cut(log: Path, bad: Path) -> None:
    bad.write_bytes(log.read_bytes()[:20_000])


def no_header(log: Path, bad: Path) -> None:
    bad.write_bytes(b"\0" * 100 + log.read_bytes()[100:])


def empty(log: Path, bad: Path) -> None:
    bad.write_bytes(b"")


def cut_export(log: Path, bad: Path) -> None:
    export_log(log, bad.with_name("whole.parquet"))
    data = bad.with_name("whole.parquet").read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    bad.with_name("whole.parquet").unlink()


def flipped_export(log: Path, bad: Path) -> None:
    """A byte of a column's data, where only the page's checksum can tell."""
    parquet = pytest.importorskip("pyarrow.parquet")
    export_log(log, bad.with_name("whole.parquet"))
    data = bytearray(bad.with_name("whole.parquet").read_bytes())
    group = parquet.ParquetFile(bad.with_name("whole.parquet")).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    page = columns["latency_ms.classify"]
    data[page.data_page_offset + page.total_compressed_size // 2] ^= 1
    bad.write_bytes(data)
    bad.with_name("whole.parquet").unlink()


def another_table(log: Path, bad: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [1]}), bad)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (tampered, "record 7 was altered"),
        (cut, "malformed"),
        (no_header, "is no audit log"),
        (empty, "is empty"),
        (cut_export, "damaged"),
        (flipped_export, "damaged: .*checksum"),
        (another_table, "has no column bundle, bundle_digest, kind, sequence, wall_ns"),
    ],
)
@pytest.mark.parametrize("ending", [".log", ".db"])
def test_a_bad_log_is_named_with_a_reason(make: object, reason: str, ending: str, log: Path, tmp_path: Path) -> None:
    assert callable(make)
    bad = tmp_path / ("bad.parquet" if make in (cut_export, flipped_export, another_table) else f"bad{ending}")
    make(log, bad)
    logs, _ = split([tmp_path])
    assert logs == [bad], "also in a folder it is not passed over"
    found = gather([bad, log], scratch(tmp_path))
    assert [file.path for file in found.files] == [log], "the others are read all the same"
    (problem,) = found.problems
    assert problem.path == bad
    import re

    assert re.search(reason, problem.reason), problem.reason
    assert str(bad) not in problem.reason
    assert "\n" not in problem.reason


def test_pipes_are_not_waited_for(log: Path, tmp_path: Path) -> None:
    """A pipe without a writer would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.log")
    shutil.copy(log, tmp_path / "car.log")
    assert split([tmp_path])[0] == [tmp_path / "car.log"]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """A page and a table hold UTF-8 only."""
    write_log(tmp_path / "a.log", None, 1, frames=2).rename(tmp_path / os.fsdecode(b"caf\xe9.log"))
    (tmp_path / os.fsdecode(b"bad\xe9.log")).write_bytes(b"")
    (tmp_path / "car.log").write_bytes((tmp_path / os.fsdecode(b"caf\xe9.log")).read_bytes())
    found = gather(split([tmp_path])[0], scratch(tmp_path))
    told = [*(file.label for file in found.files), *(problem.name + problem.reason for problem in found.problems)]
    assert any("caf\\xe9" in text for text in told) and any("bad\\xe9.log" in text for text in told)
    "".join(told).encode()


def test_labels_are_paths_below_what_all_share(log: Path, tmp_path: Path) -> None:
    for name in ("car-1/audit.log", "car-2/audit.log"):
        write_log(tmp_path / name, None, 1, frames=2)
    found = gather(split([tmp_path])[0], scratch(tmp_path))
    assert [file.label for file in found.files] == ["car-1/audit", "car-2/audit"]
