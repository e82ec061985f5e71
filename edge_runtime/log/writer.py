"""The log's one writer: commits records in groups, and acknowledges only what is durable.

A record's life: ``append`` encodes and stamps it; a commit links it into the chain, stores it together with the new
head in one transaction, and returns after the sync. When storing fails, records wait in the buffer; when that overflows
the oldest are dropped and counted, and a gap record says so once storing works again. After an I/O error nothing is
acknowledged before the file was opened anew, its chain checked against the last acknowledged record, and everything in
it moved into the database file and synced (after a failed fsync the operating system may believe that dropped pages
are written, so the old connection's view proves nothing).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import apsw

from edge_runtime.errors import LogError
from edge_runtime.log.anchor_file import AnchorFile, read_anchor
from edge_runtime.log.buffer import Buffer, Entry, Group
from edge_runtime.log.chain import Anchor, Row, chained, check_links, seal
from edge_runtime.log.clock import Clock
from edge_runtime.log.lock import WriterLock
from edge_runtime.log.record import (
    EventRecord,
    Evicted,
    LogIdentity,
    Record,
    decode_body,
    encode_body,
    encode_identity,
    encode_record,
)
from edge_runtime.log.store import DEFAULT_MAX_BYTES, STORAGE_ERRORS, Budget, Store, pages_for
from edge_runtime.text import encodable

# Records of the tail that every opening checks; `log verify` checks all.
CHECKED_TAIL = 256


@dataclass(frozen=True)
class Surroundings:
    """What the log takes from the machine: its clocks and SQLite's way to the disk (an apsw VFS; None: the default)."""

    clock: Clock = field(default_factory=Clock)
    vfs: str | None = None


@dataclass(frozen=True)
class LogStatus:
    """Where the log stands: ``acknowledged`` is the highest durable sequence, ``lost`` counts since the opening."""

    acknowledged: int
    pending: int
    lost: int
    error: str | None


@dataclass(frozen=True)
class _Attempt:
    """A transaction: the head that it leads to and the losses that it tells of."""

    head: Anchor
    losses: int


class AuditLog:
    """An audit log open for writing; a context manager whose end commits what waits.

    ``append`` and ``commit`` may be called from several threads. Raises LogError when the file is no audit log, or
    damaged, newer or open elsewhere; once open, storage errors show in ``status`` and delay acknowledgements only.
    With a ``key`` every commit seals the head, so that nobody without it can rewrite the log's end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: LogIdentity,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        group: Group | None = None,
        key: bytes | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.path = Path(path)
        self._key = key
        self._budget = Budget.of(max_bytes)
        if encodable(self.path) != str(self.path):
            raise LogError(f"{encodable(self.path)} is no name in UTF-8, which SQLite needs; choose another")
        self._identity = encode_identity(identity)
        self._identity_digest = hashlib.sha256(self._identity).hexdigest()
        surroundings = surroundings or Surroundings()
        self._vfs = surroundings.vfs
        self._buffer = Buffer(group or Group(), surroundings.clock, self._identity_digest)
        self._commit_lock = threading.Lock()
        self._in_hand: list[Entry] = []  # taken from the buffer, not yet known to be durable
        self._attempt: _Attempt | None = None  # its outcome is unknown until the file has been opened anew
        self._head: Anchor | None = None
        self._error: str | None = None
        self._checkpoint_error: str | None = None
        self._closed = False
        self._anchor_file = AnchorFile(self.path)
        self._lock = WriterLock(self.path)
        try:
            self._store: Store | None = self._open()
        except STORAGE_ERRORS as error:
            self._lock.release()
            raise LogError(f"{self.path} cannot be opened: {_reason(error)}") from error
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def head(self) -> Anchor:
        """The last acknowledged position; kept elsewhere it proves what the log held (see ``verify``)."""
        assert self._head is not None
        return self._head

    @property
    def status(self) -> LogStatus:
        """Where the log stands."""
        pending = len(self._buffer) + len(self._in_hand)
        error = self._error or self._checkpoint_error or self._anchor_file.error
        return LogStatus(self.head.sequence, pending, self._buffer.lost, error)

    def append(self, record: Record) -> None:
        """Buffer one record; commit when the group is complete. Raises LogError for values that fit no schema."""
        if self._closed:
            raise LogError(f"{self.path} is closed; open it again to append")
        if self._buffer.add(encode_record(record)):
            self.commit()

    def commit(self) -> int:
        """Store what waits; return the highest durable sequence. Storage errors leave it unchanged (see ``status``)."""
        if self._closed:
            return self.head.sequence
        return self._commit()

    def _commit(self) -> int:
        with self._commit_lock:
            try:
                if not self._lock.in_place:
                    raise LogError("the file was moved or removed while it was written; put it back, or start anew")
                while self._fill_hand() or self._buffer.losses(""):
                    self._store_batch()
                if self._store is not None:
                    self._guard(self._store, self._checkpoint_if_due)
                self._error = None
            except STORAGE_ERRORS as error:
                self._fail(_reason(error))
            except LogError as error:
                self._fail(str(error))
            return self.head.sequence

    def close(self) -> None:
        """Commit what waits and close. Raises LogError when records could not be stored; they are gone then."""
        if self._closed:
            return
        self._closed = True
        self._commit()
        gone = not self._lock.in_place
        try:
            self._finish()
        finally:
            if self._store is not None:
                self._store.abandon()
            self._anchor_file.close()
            self._lock.release()
        status = self.status
        if status.pending or gone:
            raise LogError(f"{self.path}: {status.pending} records could not be stored at the end: {status.error}")

    def _fail(self, reason: str) -> None:
        self._error = reason
        self._buffer.postpone()

    def _finish(self) -> None:
        """Mark the log as closed, so that a missing WAL file can be told from one that is no longer needed."""
        if self._store is None or self._error is not None:
            return
        try:
            self._store.begin()
            self._store.insert((), self._seal(self.head), still_open=False)
            self._store.commit()
            self._store.close()
            self._store = None
        except STORAGE_ERRORS as error:
            self._error = _reason(error)  # nothing acknowledged is at stake: the next opening recovers

    def _open(self) -> Store:
        """Open the file, check its tail, make everything in it durable, and settle a transaction of unknown outcome."""
        store = Store(self.path, self._budget, self._vfs)
        try:
            head = store.head()
            tail = store.tail(CHECKED_TAIL)
            check_links(tail, head)
            if self._head is None:
                self._begin_session(store, head, tail)
            else:
                self._check_acknowledged(store, head)
            self._settle(store, head)
        except BaseException:
            store.abandon()
            raise
        if self._attempt is not None and head == self._attempt.head:
            self._acknowledge(self._attempt)
        self._attempt = None
        self._head = head
        return store

    def _settle(self, store: Store, head: Anchor) -> None:
        """Mark the log as open and make all of it durable; a log just found may wait for that until there is space."""
        try:
            store.begin()
            store.insert((), self._seal(head))
            store.commit()
            store.checkpoint()
        except apsw.FullError:
            store.rollback()
            if self._head is not None:
                raise

    def _begin_session(self, store: Store, head: Anchor, tail: Sequence[Row]) -> None:
        if tail:
            last = tail[-1]
            self._buffer.continue_from(decode_body(last.kind, last.body, None, None)[0])
        kept = read_anchor(self.path)
        if kept is None:
            return
        found = store.hash_of(kept.sequence)
        if kept.sequence > head.sequence or (found is not None and found != kept.hash):
            message = f"the anchor file names {kept}, which this log does not hold: acknowledged records are missing"
            self._buffer.add(encode_record(EventRecord(name="anchor-mismatch", message=message)))

    def _check_acknowledged(self, store: Store, head: Anchor) -> None:
        """Raise LogError unless the reopened file ends at the acknowledged head or at the last attempt."""
        possible = [self.head] + ([self._attempt.head] if self._attempt else [])
        if head not in possible or store.hash_of(self.head.sequence) not in (None, self.head.hash):
            raise LogError(
                f"{self.path} ends at record {head.sequence} after a storage error, not at the acknowledged "
                f"{self.head.sequence}; move it away for inspection and start a new log"
            )

    def _fill_hand(self) -> bool:
        if not self._in_hand:
            self._in_hand = self._buffer.take(self._budget.batch_bytes)
        return bool(self._in_hand)

    def _store_batch(self) -> None:
        """Store the records in hand in one transaction."""
        if self._store is None:
            self._store = self._open()
            return  # settles a transaction of unknown outcome; the caller looks again at what is left
        self._guard(self._store, self._checkpoint_if_due)
        self._guard(self._store, self._transact_on_little_space)

    def _guard(self, store: Store, action: Callable[[Store], None]) -> None:
        """Do something with the store; after a full disk it stays usable, after any other error it must be reopened."""
        try:
            action(store)
        except apsw.FullError:
            store.rollback()
            raise
        except STORAGE_ERRORS:
            store.abandon()
            self._store = None
            raise

    def _checkpoint_if_due(self, store: Store) -> None:
        try:
            if store.wants_checkpoint:
                store.checkpoint()
        except apsw.FullError as error:
            # Nothing is lost: the WAL keeps the records, and ``wal_full`` stops the writing before the cap is broken.
            self._checkpoint_error = _reason(error)
        else:
            self._checkpoint_error = None

    def _transact_on_little_space(self, store: Store) -> None:
        try:
            self._transact(store)
        except apsw.FullError:
            # A full disk still has the WAL's own space: a checkpoint frees it unless the database has to grow.
            store.rollback()
            store.checkpoint()
            self._transact(store)

    def _transact(self, store: Store) -> None:
        if store.wal_full:
            raise apsw.FullError("the WAL file has used up its share of the byte cap")
        store.begin()
        evicted = store.evict(pages_for(entry.encoded.size + 512 for entry in self._in_hand))
        lost = self._buffer.losses(self._error or "records came faster than they could be stored")
        gaps: list[Record] = []
        if evicted is not None:
            first, last = evicted
            gaps.append(Evicted(first=first, last=last.sequence, hash=last.hash.hex()))
        if lost is not None:
            gaps.append(lost)
        added = self._chain([self._buffer.stamp(encode_record(gap)) for gap in gaps] + self._in_hand)
        attempt = _Attempt(added[-1].anchor, lost.count if lost else 0)
        store.add_identity(self._identity_digest, self._identity)
        store.insert(added, self._seal(attempt.head))
        self._attempt = attempt
        store.commit()
        self._acknowledge(attempt)

    def _chain(self, entries: Sequence[Entry]) -> list[Row]:
        added: list[Row] = []
        for entry in entries:
            before = added[-1].anchor if added else self.head
            body = encode_body(entry.stamp, entry.encoded.data)
            added.append(chained(before, entry.encoded.kind, body, entry.encoded.image, entry.encoded.saliency))
        return added

    def _acknowledge(self, attempt: _Attempt) -> None:
        """Take over a transaction that is durable now."""
        self._head = attempt.head
        self._in_hand = []
        self._buffer.told(attempt.losses)
        self._attempt = None
        self._anchor_file.write(attempt.head)

    def _seal(self, head: Anchor) -> bytes | None:
        return None if self._key is None else seal(self._key, head)


def _reason(error: apsw.Error) -> str:
    code = getattr(error, "extendedresult", None) or 0
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code) or type(error).__name__
    return f"{error} ({name})" if str(error) else str(name)
