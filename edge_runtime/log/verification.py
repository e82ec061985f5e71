"""Check a log: that it holds what its writer acknowledged, in that order, unchanged and to the end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from edge_runtime.errors import LogError
from edge_runtime.log.anchor_file import read_anchor
from edge_runtime.log.chain import Anchor, Row, follows, genesis, seal
from edge_runtime.log.record import Evicted, Lost, Record, Stamp, decode_body
from edge_runtime.log.snapshot import open_snapshot, wal_header
from edge_runtime.log.store import rows


@dataclass(frozen=True)
class VerifyResult:
    """What verification found.

    ``problem`` is None for a log that holds exactly what its writer acknowledged; else it says what is wrong, and
    ``sequence`` names the first bad record (None when the fault is not at one record). ``evicted`` counts records
    removed for the byte cap, ``lost`` those that gap records of the remaining log report, ``clock_steps`` jumps of the
    wall clock. ``checked_by`` names what fixed the log's end: "head" always, "anchor" and "seal" where given.
    ``log_id`` (hex) tells logs apart, wherever they were copied.
    """

    log_id: str | None = None
    records: int = 0
    first: int | None = None
    head: Anchor | None = None
    evicted: int = 0
    lost: int = 0
    clock_steps: int = 0
    checked_by: tuple[str, ...] = ("head",)
    problem: str | None = None
    sequence: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None


class Problem(Exception):  # noqa: N818 (a finding of verification, never seen outside this module)
    """The first thing that is wrong with a log."""

    def __init__(self, what: str, sequence: int | None = None) -> None:
        super().__init__(what)
        self.sequence = sequence


def verify(path: str | Path, *, anchor: Anchor | None = None, key: bytes | None = None) -> VerifyResult:
    """Check the whole chain, its end, and every record's form; never raises for what it finds, only without a log.

    ``anchor`` defaults to the one beside the log. ``key`` checks the seal of a log that was written with one.
    Raises LogError when there is no log at ``path`` or it is of a newer schema.
    """
    path = Path(path)
    walk = _Walk()
    anchor = anchor or read_anchor(path)
    try:
        with open_snapshot(path) as db:
            try:
                _check_file(db)
                walk.check(db, anchor, key)
                if walk.is_open and wal_header(path) is None:
                    raise Problem("the log was not closed and its -wal file is missing: collect both files")
            except (apsw.Error, UnicodeDecodeError) as error:  # SQLite does not check that its text is UTF-8
                raise Problem(f"the database is damaged after record {walk.position}: {error}") from error
    except Problem as problem:
        return walk.result(str(problem), problem.sequence)
    return walk.result()


def _check_file(db: apsw.Connection) -> None:
    """Let SQLite check its own structure: pages, tree, types."""
    found = db.execute("PRAGMA integrity_check(1)").get
    if found != "ok":
        raise Problem(f"the database is damaged: {found}")


class _Walk:
    """One pass along the chain, keeping what it has seen."""

    def __init__(self) -> None:
        self.log_id: str | None = None
        self.position = 0
        self.first: int | None = None
        self.head: Anchor | None = None
        self.records = self.evicted = self.lost = self.clock_steps = 0
        self.checked_by = ["head"]
        self.is_open = False

    def result(self, problem: str | None = None, sequence: int | None = None) -> VerifyResult:
        return VerifyResult(
            log_id=self.log_id,
            records=self.records,
            first=self.first,
            head=self.head,
            evicted=self.evicted,
            lost=self.lost,
            clock_steps=self.clock_steps,
            checked_by=tuple(self.checked_by),
            problem=problem,
            sequence=sequence,
        )

    def check(self, db: apsw.Connection, anchor: Anchor | None, key: bytes | None) -> None:
        (log_id,) = _only_row(db, "SELECT id FROM log")
        self.log_id = log_id.hex()
        sequence, digest, sealed, is_open = _only_row(db, "SELECT sequence, hash, seal, open FROM head")
        head, self.is_open = Anchor(sequence, digest), bool(is_open)
        identities = self._check_identities(db)
        before = self._start(db, genesis(log_id))
        held = before if anchor is not None and anchor.sequence == before.sequence else None
        for row in rows(db, "ORDER BY sequence"):
            self._check_row(before, row, identities)
            before = self.head = row.anchor
            held = before if anchor is not None and anchor.sequence == before.sequence else held
        self._check_end(before, head)
        self._check_anchor(before, held, anchor)
        if sealed is not None and key is not None:
            self.checked_by.append("seal")
            if sealed != seal(key, head):
                raise Problem("the head's seal does not fit the key: the log's end was rewritten or cut off")
        elif key is not None:
            raise Problem("the log carries no seal, though a key was given: it was written without one or rewritten")

    def _start(self, db: apsw.Connection, start: Anchor) -> Anchor:
        """Return the position before the oldest record: the log's start, or what the newest gap record says."""
        self.first = db.execute("SELECT min(sequence) FROM record").get
        if self.first is None or self.first == 1:
            return start
        newest = list(rows(db, "WHERE kind = 'evicted' ORDER BY sequence DESC LIMIT 1"))
        gap = _decode(newest[0])[1] if newest else None
        if not isinstance(gap, Evicted) or gap.last != self.first - 1:
            raise Problem(f"records before {self.first} are missing, and no gap record accounts for them", self.first)
        self.evicted = gap.last
        return Anchor(gap.last, bytes.fromhex(gap.hash))

    def _check_identities(self, db: apsw.Connection) -> set[str]:
        """Return the digests of the identities that are what their digest says."""
        stored = db.execute("SELECT digest, CAST(body AS BLOB) FROM identity")
        return {digest for digest, body in stored if hashlib.sha256(body).hexdigest() == digest}

    def _check_row(self, before: Anchor, row: Row, identities: set[str]) -> None:
        if row.sequence != before.sequence + 1:
            raise Problem(f"record {before.sequence + 1} is missing", before.sequence + 1)
        if not follows(before, row):
            raise Problem(f"record {row.sequence} was altered, moved or put in place of another", row.sequence)
        stamp, record = _decode(row)
        if stamp.identity not in identities:
            raise Problem(f"the identity that record {row.sequence} names was altered or removed", row.sequence)
        self.position, self.records = row.sequence, self.records + 1
        self.clock_steps += stamp.clock_step_seconds is not None
        self.lost += record.count if isinstance(record, Lost) else 0

    def _check_end(self, last: Anchor, head: Anchor) -> None:
        if head.sequence > last.sequence:
            raise Problem(
                f"the log is cut off after record {last.sequence}; its head is {head.sequence}", last.sequence + 1
            )
        if last != head:
            raise Problem(f"record {last.sequence} is not the head that the log names ({head.sequence})", last.sequence)

    def _check_anchor(self, last: Anchor, held: Anchor | None, anchor: Anchor | None) -> None:
        if anchor is None:
            return
        if anchor.sequence > last.sequence:
            what = f"the anchor names record {anchor.sequence}, the log ends at {last.sequence}: its end is missing"
            raise Problem(what, last.sequence + 1)
        if held is not None and held != anchor:
            raise Problem(f"record {anchor.sequence} is not the one that the anchor names: the log was rewritten")
        if held is not None:  # an evicted anchor proves nothing any more
            self.checked_by.append("anchor")


def _only_row(db: apsw.Connection, query: str) -> tuple[Any, ...]:
    """Return the row of a table that must hold exactly one."""
    found: list[tuple[Any, ...]] = list(db.execute(query))
    if len(found) != 1:
        raise Problem("the log's own tables were altered")
    return found[0]


def _decode(row: Row) -> tuple[Stamp, Record]:
    try:
        return decode_body(row.kind, row.body, row.image, row.saliency)
    except LogError as error:
        raise Problem(f"record {row.sequence}: {error}", row.sequence) from error
