"""Every edit, deletion, reordering and truncation of a collected log is found, and by which protection."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from edge_runtime.errors import LogError
from edge_runtime.log import Anchor, VerifyResult, read, verify
from edge_runtime.log.anchor_file import anchor_path, read_anchor
from edge_runtime.log.chain import Row, chained
from edge_runtime.log.snapshot import wal_path
from edge_runtime.log.store import rows
from tests.edge_runtime.log_tools import copy_log, fill, frame, open_log

KEY = b"a key that only the vehicle and its owner hold"
RECORDS = 40


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 40 records with pictures, sealed and closed."""
    return fill(tmp_path_factory.mktemp("collected") / "audit.log", RECORDS, 900, key=KEY)


@pytest.fixture(scope="module")
def evicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose oldest records were evicted."""
    return fill(tmp_path_factory.mktemp("evicted") / "audit.log", 400, 3000)


def edit(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


def swap(path: Path) -> None:
    """Exchange the contents of two records, hashes included."""
    columns = "kind, body, image, saliency, hash"
    edit(
        path,
        "CREATE TEMP TABLE t AS SELECT * FROM record WHERE sequence IN (11, 12)",
        f"UPDATE record SET ({columns}) = (SELECT {columns} FROM t WHERE sequence = 12) WHERE sequence = 11",
        f"UPDATE record SET ({columns}) = (SELECT {columns} FROM t WHERE sequence = 11) WHERE sequence = 12",
    )


def rehash(path: Path, from_sequence: int, change: Callable[[list[Row]], list[Row]]) -> None:
    """Change the records from one on and compute their hashes and the head anew: the perfect forger without key."""
    db = apsw.Connection(str(path))
    kept = list(rows(db, "ORDER BY sequence"))
    head = kept[from_sequence - 2].anchor
    forged = []
    for row in change(kept[from_sequence - 1 :]):
        forged.append(chained(head, row.kind, row.body, row.image, row.saliency))
        head = forged[-1].anchor
    db.execute("DELETE FROM record WHERE sequence >= ?", (from_sequence,))
    for row in forged:
        db.execute(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)",
            (row.sequence, row.kind, row.body.decode(), row.image, row.saliency, row.hash),
        )
    db.execute("UPDATE head SET sequence = ?, hash = ?", (head.sequence, head.hash))
    db.close()


def sql(*statements: str) -> Callable[[Path], None]:
    return lambda path: edit(path, *statements)


# What is done without computing a single hash -> the record that verification must name (None: no single record).
CLUMSY: dict[str, tuple[Callable[[Path], None], int | None]] = {
    "edit a number": (sql("UPDATE record SET body = replace(body, '\"prediction\":9', '\"prediction\":8')"), 10),
    "edit a time": (sql("UPDATE record SET body = replace(body, 'wall_ns\":1', 'wall_ns\":2') WHERE sequence = 7"), 7),
    "edit a picture": (sql("UPDATE record SET saliency = zeroblob(900) WHERE sequence = 20"), 20),
    "remove a picture": (sql("UPDATE record SET saliency = NULL WHERE sequence = 20"), 20),
    "move a picture": (sql("UPDATE record SET image = saliency, saliency = NULL WHERE sequence = 20"), 20),
    "edit a kind": (sql("UPDATE record SET kind = 'event' WHERE sequence = 3"), 3),
    "edit a hash": (sql("UPDATE record SET hash = zeroblob(32) WHERE sequence = 30"), 30),
    "delete the first": (sql("DELETE FROM record WHERE sequence = 1"), 2),
    "delete one": (sql("DELETE FROM record WHERE sequence = 17"), 17),
    "delete many": (sql("DELETE FROM record WHERE sequence BETWEEN 5 AND 39"), 5),
    "delete and renumber": (
        sql("DELETE FROM record WHERE sequence = 17", "UPDATE record SET sequence = sequence - 1 WHERE sequence > 17"),
        17,
    ),
    "swap two": (swap, 11),
    "repeat one": (
        sql("INSERT INTO record SELECT 41, kind, body, image, saliency, hash FROM record WHERE sequence = 40"),
        41,
    ),
    "cut the last off": (sql("DELETE FROM record WHERE sequence = 40"), 40),
    "cut many off": (sql("DELETE FROM record WHERE sequence > 10"), 11),
    "delete all": (sql("DELETE FROM record"), 1),
    "edit the identity": (sql("UPDATE identity SET body = replace(body, 'signs', 'other')"), 1),
    "delete the identity": (sql("DELETE FROM identity"), 1),
    "edit the log's id": (sql("UPDATE log SET id = zeroblob(16)"), 1),
    "delete the log's id": (sql("DELETE FROM log"), None),
    "delete the head": (sql("DELETE FROM head"), None),
    "set the head back": (sql("UPDATE head SET sequence = 39"), 40),
    "edit the head's hash": (sql("UPDATE head SET hash = zeroblob(32)"), 40),
    "drop a table": (sql("DROP TABLE identity"), None),
    "a body that is no JSON": (sql("UPDATE record SET body = '{' WHERE sequence = 5"), 5),
}


@pytest.mark.parametrize("name", CLUMSY)
def test_clumsy_changes_need_neither_key_nor_anchor(name: str, collected: Path, tmp_path: Path) -> None:
    path = copy_log(collected, tmp_path)
    anchor_path(path).unlink()
    assert verify(path).ok
    change, expected = CLUMSY[name]
    change(path)
    result = verify(path)
    assert not result.ok
    assert result.sequence == expected, result.problem


def drop_one(found: list[Row]) -> list[Row]:
    return found[1:]


def edit_one(found: list[Row]) -> list[Row]:
    body = found[0].body.replace(b"stop", b"yield")
    return [Row(found[0].sequence, "frame", body, None, None, b""), *found[1:]]


def cut_off(found: list[Row]) -> list[Row]:
    return []


FORGERIES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "edit": edit_one,
    "delete": drop_one,
    "reorder": lambda found: [found[1], found[0], *found[2:]],
    "truncate": cut_off,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_recomputed_chain_is_found_by_key_or_anchor_only(name: str, collected: Path, tmp_path: Path) -> None:
    path = copy_log(collected, tmp_path)
    anchor = read_anchor(path)
    assert anchor is not None
    assert verify(path, key=KEY).checked_by == ("head", "anchor", "seal")
    rehash(path, 15, FORGERIES[name])
    assert not verify(path).ok, "the anchor beside the log"
    anchor_path(path).unlink()
    assert verify(path).ok, "without key and anchor a recomputed chain cannot be told from a true one"
    assert not verify(path, key=KEY).ok
    assert not verify(path, anchor=anchor).ok


def test_a_removed_seal_is_found(collected: Path, tmp_path: Path) -> None:
    path = copy_log(collected, tmp_path)
    edit(path, "UPDATE head SET seal = NULL")
    assert "no seal" in str(verify(path, key=KEY).problem)


def test_another_key_is_found(collected: Path) -> None:
    assert "seal" in str(verify(collected, key=b"another key").problem)


def test_an_older_copy_is_found_by_a_later_anchor(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit.log", 8, key=KEY)
    older = copy_log(path, tmp_path / "older")
    with open_log(path, key=KEY) as log:
        log.append(frame(8))
    anchor_path(older).unlink()
    assert verify(older, key=KEY).ok, "a true copy of an earlier time carries a true seal"
    assert verify(older, key=KEY, anchor=read_anchor(path)).sequence == 9


def test_a_forgotten_wal_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        log.append(frame(1))
        log.commit()
        collected = copy_log(path, tmp_path / "collected")
    assert verify(collected).ok
    anchor_path(collected).unlink()
    assert verify(collected).ok
    wal_path(collected).unlink()
    assert "-wal file is missing" in str(verify(collected).problem)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_shortened_file_is_found(kept: float, collected: Path, tmp_path: Path) -> None:
    path = copy_log(collected, tmp_path)
    anchor_path(path).unlink()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert not holds(path)


def test_a_shortened_wal_is_found_by_the_anchor(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        for number in range(4):
            log.append(frame(number))
            log.commit()
        whole = copy_log(path, tmp_path / "whole")
    size = wal_path(whole).stat().st_size
    for number, cut in enumerate((33, size // 3, size // 2, size - 1)):
        path = copy_log(whole, tmp_path / str(number))
        wal_path(path).write_bytes(wal_path(whole).read_bytes()[:cut])
        assert "its end is missing" in str(verify(path).problem)


def holds(path: Path) -> bool:
    try:
        return verify(path).ok
    except LogError:
        return False


def content(path: Path) -> list[tuple[int, bytes]]:
    return [(entry.sequence, entry.hash) for entry in read(path)]


def test_flipped_bytes_are_found_or_harmless(collected: Path, tmp_path: Path) -> None:
    """A flip in an unused part of a page changes nothing; any other is found."""
    path = copy_log(collected, tmp_path)
    original, expected = path.read_bytes(), content(path)
    randomness, found = random.Random(3), 0
    for _ in range(300):
        position = randomness.randrange(len(original))
        changed = bytearray(original)
        changed[position] ^= 1 << randomness.randrange(8)
        path.write_bytes(changed)
        if holds(path):
            assert content(path) == expected, f"byte {position}"
        else:
            found += 1
    assert found > 100


# Manipulations around the gap that eviction leaves.
EVICTION: dict[str, str] = {
    "delete the oldest left": "DELETE FROM record WHERE sequence = (SELECT min(sequence) FROM record)",
    "delete the newest gap record": "DELETE FROM record WHERE sequence = "
    "(SELECT max(sequence) FROM record WHERE kind = 'evicted')",
    "delete all gap records": "DELETE FROM record WHERE kind = 'evicted'",
    "claim a wider gap": """UPDATE record SET body = replace(body, '"last":', '"last":1') WHERE kind = 'evicted'""",
    "claim another hash": """UPDATE record SET body = replace(body, '"hash":"', '"hash":"z') WHERE kind = 'evicted'""",
}


@pytest.mark.parametrize("name", EVICTION)
def test_the_chain_stays_provable_over_evicted_records(name: str, evicted: Path, tmp_path: Path) -> None:
    path = copy_log(evicted, tmp_path)
    anchor_path(path).unlink()
    result = verify(path)
    assert result.ok
    assert result.evicted == (result.first or 0) - 1 > 0
    edit(path, EVICTION[name])
    assert not holds(path)


def test_an_anchor_of_an_evicted_record_proves_nothing_but_harms_nothing(evicted: Path) -> None:
    result = verify(evicted, anchor=Anchor(1, bytes(32)))
    assert result.ok
    assert "anchor" not in result.checked_by


def test_verification_changes_not_a_byte(collected: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with open_log(path) as log:
        log.append(frame(1))
        log.commit()
        crashed = copy_log(path, tmp_path / "crashed")
    for log_path in (crashed, copy_log(collected, tmp_path / "closed")):
        before = {part.name: part.read_bytes() for part in log_path.parent.iterdir()}
        result: VerifyResult = verify(log_path)
        assert result.ok
        assert list(read(log_path))
        assert {part.name: part.read_bytes() for part in log_path.parent.iterdir()} == before


@pytest.mark.parametrize(("what", "where"), [("kind", b"frame{"), ("identity", b'"software"')])
def test_text_that_is_no_utf_8_is_told(tmp_path: Path, what: str, where: bytes) -> None:
    """SQLite hands out whatever bytes a text holds; its own check does not mind them."""
    path = fill(tmp_path / "audit.log", 20)
    path.write_bytes(path.read_bytes().replace(where, b"\xd3" + where[1:]))
    assert not verify(path).ok, what
    with pytest.raises(LogError, match=re.escape(str(path))):
        list(read(path))
