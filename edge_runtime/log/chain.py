"""The hash chain: each record's hash covers its bytes and the hash before it, so no record changes, moves or vanishes
unnoticed before the head. What fixes the head itself: an :class:`Anchor` kept elsewhere, or a seal made with a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge_runtime.errors import LogError

DOMAIN = b"roadworthy audit log 1"


@dataclass(frozen=True)
class Anchor:
    """A position in the chain: everything up to ``sequence`` is fixed by ``hash`` (32 bytes)."""

    sequence: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Read what ``str`` wrote. Raises LogError for anything else."""
        found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
        if not found:
            raise LogError(f"{text.strip()[:80]!r} is no anchor; it looks like 1234:<64 hexadecimal digits>")
        return cls(int(found[1]), bytes.fromhex(found[2]))


def genesis(log_id: bytes) -> Anchor:
    """Return the position before the first record. The log's random id makes chains of two logs incompatible."""
    return Anchor(0, hashlib.sha256(DOMAIN + log_id).digest())


def link(before: Anchor, kind: str, body: bytes, image: bytes | None, saliency: bytes | None) -> Anchor:
    """Return the position after one more record.

    hash = SHA-256(previous hash, sequence, kind, body, image, saliency); the sequence as 8 bytes, each part preceded by
    a presence byte and its length as 4 bytes, all big-endian, so that no two records give the same input.
    """
    sequence = before.sequence + 1
    covered = [before.hash, struct.pack(">Q", sequence)]
    for part in (kind.encode(), body, image, saliency):
        covered += [b"\0"] if part is None else [struct.pack(">BI", 1, len(part)), part]
    return Anchor(sequence, hashlib.sha256(b"".join(covered)).digest())


def seal(key: bytes, head: Anchor) -> bytes:
    """Return the keyed proof (HMAC-SHA-256) that ``head`` was the log's head. Without the key none can be made."""
    return hmac.new(key, DOMAIN + struct.pack(">Q", head.sequence) + head.hash, hashlib.sha256).digest()


@dataclass(frozen=True)
class Row:
    """One stored record."""

    sequence: int
    kind: str
    body: bytes
    image: bytes | None
    saliency: bytes | None
    hash: bytes

    @property
    def anchor(self) -> Anchor:
        """The position after this record."""
        return Anchor(self.sequence, self.hash)


def chained(before: Anchor, kind: str, body: bytes, image: bytes | None, saliency: bytes | None) -> Row:
    """Return the record with the hash that its content and predecessor give."""
    after = link(before, kind, body, image, saliency)
    return Row(after.sequence, kind, body, image, saliency, after.hash)


def follows(before: Anchor, row: Row) -> bool:
    """Say whether the row's sequence and hash are those that its content and predecessor give."""
    return row == chained(before, row.kind, row.body, row.image, row.saliency)


def check_links(tail: Sequence[Row], head: Anchor) -> None:
    """Raise LogError unless the rows follow each other and end at ``head``; the first is taken on trust."""
    see = "see `roadworthy log verify`"
    for before, row in pairwise(tail):
        if not follows(before.anchor, row):
            raise LogError(f"record {row.sequence} was altered, or one before it removed; {see}")
    last = tail[-1].anchor if tail else None
    if (last is None and head.sequence) or (last is not None and last != head):
        raise LogError(f"the log ends at record {last.sequence if last else 0}, its head says {head.sequence}; {see}")
