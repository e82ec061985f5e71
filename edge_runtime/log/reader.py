"""Read logs, also while they are written and after their writer died."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import msgspec

from edge_runtime.errors import LogError
from edge_runtime.log.record import LogIdentity, Record, Stamp, decode_body
from edge_runtime.log.snapshot import open_snapshot
from edge_runtime.log.store import rows


@dataclass(frozen=True)
class LoggedRecord:
    """One record as it was stored."""

    sequence: int
    kind: str
    stamp: Stamp
    record: Record
    identity: LogIdentity
    hash: bytes


def read(path: str | Path, *, last: int | None = None, kind: str | None = None) -> Iterator[LoggedRecord]:
    """Yield the log's records in order; ``last`` limits to the newest so many, ``kind`` to one kind.

    Verifies nothing beyond each record's form. Raises LogError where there is no log, or a record cannot be read.
    """
    path = Path(path)
    with open_snapshot(path) as db:
        yield from records(db, path, last=last, kind=kind)


def records(
    db: apsw.Connection, path: Path, *, last: int | None = None, kind: str | None = None
) -> Iterator[LoggedRecord]:
    """Yield the records of a snapshot; see :func:`read`."""
    sequence = 0
    try:
        identities = _identities(db)
        first = 0 if last is None else _nth_from_the_end(db, last, kind)
        for row in rows(db, "WHERE sequence >= ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY sequence", (first, kind)):
            sequence = row.sequence
            stamp, record = decode_body(row.kind, row.body, row.image, row.saliency)
            if stamp.identity not in identities:
                raise LogError(f"it names an identity that the log does not hold: {stamp.identity}")
            yield LoggedRecord(sequence, row.kind, stamp, record, identities[stamp.identity], row.hash)
    except (apsw.Error, UnicodeDecodeError) as error:
        raise LogError(f"{path} cannot be read after record {sequence}: {error}; see roadworthy log verify") from error
    except LogError as error:
        raise LogError(f"{path}: record {sequence}: {error}") from error


def _nth_from_the_end(db: apsw.Connection, count: int, kind: str | None) -> int:
    """Return the sequence of the ``count``-th newest record of a kind (None: any), 0 when there are fewer."""
    query = "SELECT sequence FROM record WHERE ?1 IS NULL OR kind = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2"
    return int(db.execute(query, (kind, max(count, 1) - 1)).get or 0)


def _identities(db: apsw.Connection) -> dict[str, LogIdentity]:
    stored = db.execute("SELECT digest, CAST(body AS BLOB) FROM identity")
    try:
        return {digest: msgspec.json.decode(body, type=LogIdentity) for digest, body in stored}
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise LogError(f"an identity does not follow its schema: {error}") from error
