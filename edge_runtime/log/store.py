"""The SQLite file below the log: schema, settings, byte cap, eviction, checkpoints. Nothing else here writes SQL.

Settings and their reasons: WAL with ``synchronous=FULL`` syncs once per commit and loses no committed transaction at a
power cut; exclusive locking keeps every other connection out, so that no reader's older SQLite can meet the WAL-reset
fault of versions up to 3.51.2, and needs no shared memory; checkpoints are ours (their errors must be seen, and a log
that failed must not be checkpointed on its way out).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge_runtime.errors import LogError
from edge_runtime.log.chain import Anchor, Row, genesis

SCHEMA_VERSION = 1
APPLICATION_ID = 0x52574C47  # "RWLG"
PAGE_BYTES = 4096
FRAME_BYTES = PAGE_BYTES + 24  # a page in the WAL file carries a 24-byte header
MIN_BYTES = 1 << 20
MOST_WAL_PAGES = 256
DEFAULT_MAX_BYTES = 256 << 20

SCHEMA = """
CREATE TABLE log (id BLOB NOT NULL, created_wall_ns INTEGER NOT NULL) STRICT;
CREATE TABLE identity (digest TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE record (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    image BLOB,
    saliency BLOB,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE head (sequence INTEGER NOT NULL, hash BLOB NOT NULL, seal BLOB, open INTEGER NOT NULL) STRICT;
"""

# Before the first access to the file, where exclusive locking must be chosen.
OPENING: dict[str, int | str] = {"page_size": PAGE_BYTES, "locking_mode": "exclusive"}

PRAGMAS: dict[str, int | str] = {
    # In WAL mode the same as "full"; a new file's switch to WAL uses a rollback journal, whose removal "full" does not
    # sync: if it came back after a power cut, recovery would roll the new log back to nothing.
    "synchronous": "extra",
    "journal_mode": "wal",
    "fullfsync": 1,  # macOS: fsync alone does not reach the medium
    "checkpoint_fullfsync": 1,
    "wal_autocheckpoint": 0,
    "secure_delete": 0,  # overwriting evicted records would double the writing
    "cell_size_check": 1,
    "temp_store": "memory",
    "trusted_schema": 0,
}

# What a broken or full disk, or a damaged file, makes SQLite raise. Anything else is a bug and passes through.
STORAGE_ERRORS = (
    apsw.IOError,
    apsw.FullError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.BusyError,
    apsw.ProtocolError,
)


@dataclass(frozen=True)
class Budget:
    """How a byte cap is shared: pages for the database, pages of WAL before a checkpoint, bytes per transaction."""

    database_pages: int
    wal_pages: int
    batch_bytes: int

    @classmethod
    def of(cls, max_bytes: int) -> Budget:
        """Share ``max_bytes`` between the database and its WAL file. Raises LogError below ``MIN_BYTES``."""
        if max_bytes < MIN_BYTES:
            raise LogError(f"a log of {max_bytes} bytes is too small; give it at least {MIN_BYTES}")
        # Few pages: a checkpoint makes the commit that meets it wait, so many short ones beat a few long ones.
        wal_pages = min(max_bytes // PAGE_BYTES // 8, MOST_WAL_PAGES)
        # One transaction may follow the last that did not reach the threshold; a few pages go to the tree and the head.
        reserve = (2 * wal_pages + 16) * FRAME_BYTES
        return cls((max_bytes - reserve) // PAGE_BYTES, wal_pages, wal_pages * PAGE_BYTES // 2)


def pages_for(sizes: Iterable[int]) -> int:
    """Return the most pages that rows of these sizes can take: several to a page, or one and its overflow pages."""
    return 8 + sum(2 * size // PAGE_BYTES + 1 if size < PAGE_BYTES else size // (PAGE_BYTES - 4) + 2 for size in sizes)


class Store:
    """An open log file. Every method may raise one of ``STORAGE_ERRORS``; after any but FullError, open it anew."""

    def __init__(self, path: Path, budget: Budget, vfs: str | None) -> None:
        self._budget = budget
        self._wal_used = 0
        self._db = apsw.Connection(str(path), vfs=vfs)
        try:
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._set(OPENING)
            is_new = not self._db.pragma("application_id") and not self._db.execute("SELECT 1 FROM sqlite_schema").get
            if not is_new:
                check_schema(self._db, path)  # before a setting changes somebody else's database
            self._set(PRAGMAS)
            self._db.set_wal_hook(self._on_commit)
            if is_new:
                self._create()
            self._cap(path)
        except BaseException:
            self._db.close(True)
            raise

    def _on_commit(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_used = pages
        return int(apsw.SQLITE_OK)

    def _cap(self, path: Path) -> None:
        pages = self._db.pragma("page_count")
        if pages > self._budget.database_pages:
            raise LogError(
                f"{path} already holds {pages * PAGE_BYTES} bytes, more than this cap leaves for its records "
                f"({self._budget.database_pages * PAGE_BYTES}); keep the old cap, or move the file and start a new log"
            )
        self._db.pragma("max_page_count", self._budget.database_pages)

    def _set(self, pragmas: dict[str, int | str]) -> None:
        for name, value in pragmas.items():
            self._db.pragma(name, value)

    def _create(self) -> None:
        log_id = uuid.uuid4().bytes
        with self._db:
            self._db.execute(SCHEMA)
            self._db.pragma("application_id", APPLICATION_ID)
            self._db.pragma("user_version", SCHEMA_VERSION)
            self._db.execute("INSERT INTO log VALUES (?, ?)", (log_id, time.time_ns()))
            start = genesis(log_id)
            self._db.execute("INSERT INTO head VALUES (?, ?, NULL, 0)", (start.sequence, start.hash))

    def head(self) -> Anchor:
        """Return the position after the last record."""
        return Anchor(*self._db.execute("SELECT sequence, hash FROM head").get)

    def tail(self, count: int) -> list[Row]:
        """Return the last ``count`` records, oldest first."""
        return list(rows(self._db, "ORDER BY sequence DESC LIMIT ?", (count,)))[::-1]

    def hash_of(self, sequence: int) -> bytes | None:
        """Return the hash of one record, None when it is not (or no longer) there."""
        found = self._db.execute("SELECT hash FROM record WHERE sequence = ?", (sequence,)).get
        return found if isinstance(found, bytes) else None

    def first_sequence(self) -> int | None:
        """Return the sequence of the oldest record, None in an empty log."""
        found = self._db.execute("SELECT min(sequence) FROM record").get
        return found if isinstance(found, int) else None

    def begin(self) -> None:
        """Start a transaction."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable: returns after the sync."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Drop the transaction, if SQLite has not done so already."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add_identity(self, digest: str, body: bytes) -> None:
        """Store an identity unless it is known."""
        self._db.execute("INSERT OR IGNORE INTO identity VALUES (?, ?)", (digest, body.decode()))

    def insert(self, added: Sequence[Row], sealed: bytes | None, still_open: bool = True) -> None:
        """Append records and move the head to the last of them."""
        self._db.executemany(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)",
            ((row.sequence, row.kind, row.body.decode(), row.image, row.saliency, row.hash) for row in added),
        )
        if added:
            self._db.execute("UPDATE head SET sequence = ?, hash = ?", (added[-1].sequence, added[-1].hash))
        self._db.execute("UPDATE head SET seal = ?, open = ?", (sealed, int(still_open)))

    def evict(self, pages: int) -> tuple[int, Anchor] | None:
        """Delete the oldest records until ``pages`` are free; return the first deleted sequence and the last's anchor.

        Deletes at least a 64th of the cap, so that not every commit evicts. The head's record always stays.
        """
        first, last = None, None
        while (missing := pages - self._free_pages()) > 0:
            oldest = self._oldest(max(missing, self._budget.database_pages // 64) * PAGE_BYTES)
            if oldest is None:
                break
            first, last = first or oldest[0], oldest[1]
            self._db.execute("DELETE FROM record WHERE sequence <= ?", (last.sequence,))
        return None if first is None or last is None else (first, last)

    def _oldest(self, wanted_bytes: int) -> tuple[int, Anchor] | None:
        """Return the first sequence and the last anchor of the oldest records that hold ``wanted_bytes`` together."""
        first, last, found = None, None, 0
        size = "octet_length(body) + ifnull(octet_length(image), 0) + ifnull(octet_length(saliency), 0) + 64"
        cursor = self._db.execute(
            f"SELECT sequence, hash, {size} FROM record WHERE sequence < (SELECT sequence FROM head) ORDER BY sequence"
        )
        for sequence, digest, held in cursor:
            first, last, found = first or sequence, Anchor(sequence, digest), found + held
            if found >= wanted_bytes:
                break
        cursor.close(True)
        return None if first is None or last is None else (first, last)

    def _free_pages(self) -> int:
        used = self._db.pragma("page_count") - self._db.pragma("freelist_count")
        return int(self._db.pragma("max_page_count") - used)

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the WAL has reached its share of the cap."""
        return self._wal_used >= self._budget.wal_pages

    @property
    def wal_full(self) -> bool:
        """Whether the WAL leaves no room for another transaction within the cap (checkpoints keep failing)."""
        return self._wal_used >= 2 * self._budget.wal_pages

    def checkpoint(self) -> None:
        """Move the WAL's pages into the database and sync it; the WAL's space is used again from then on."""
        logged, moved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
        if logged == moved:
            self._wal_used = 0

    def abandon(self) -> None:
        """Close without writing anything more: the files stay as they are for the next opening to recover."""
        self._db.close(True)

    def close(self) -> None:
        """Checkpoint and close; the WAL file goes."""
        self.checkpoint()
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._db.close()


def check_schema(db: apsw.Connection, path: Path) -> None:
    """Raise LogError unless the file is an audit log of this schema."""
    if db.pragma("application_id") != APPLICATION_ID:
        raise LogError(f"{path} is a database but no audit log; give a file that roadworthy wrote")
    version = db.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise LogError(
            f"{path} has schema {version}, of a newer roadworthy; this one reads up to {SCHEMA_VERSION}: update it"
        )
    if version != SCHEMA_VERSION:
        raise LogError(f"{path} has schema {version}, which no release has written; the file is damaged")


def rows(db: apsw.Connection, condition: str, bindings: tuple[int | str | None, ...] = ()) -> Iterator[Row]:
    """Yield the records that an SQL tail selects."""
    columns = "sequence, kind, CAST(body AS BLOB), image, saliency, hash"
    for values in db.execute(f"SELECT {columns} FROM record {condition}", bindings):
        yield Row(*values)
