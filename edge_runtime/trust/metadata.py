"""One file of signed metadata, parsed distrustfully: one spelling, bounded size, Ed25519, every signature counts.

The TUF specification leaves white space, the order of fields, unsigned fields and further signatures open. Here they
are not: a file of which any byte was changed is refused, so that nobody can mark or bloat what others signed.

Format: https://theupdateframework.github.io/specification/latest/ (sections 4.2, 4.3, 4.5).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edge_runtime.errors import TrustError
from edge_runtime.extras import library
from edge_runtime.manifest import Sha256

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Targets

ROOT, TARGETS = "root", "targets"
MAX_BYTES = {ROOT: 256 << 10, TARGETS: 4 << 20}
SIGNED_AT = "x-signed-at"  # a field of ours in what is signed: a lower bound of the time for clocks that stand in 1970
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

Hex32 = Sha256  # an Ed25519 key and a key's id are as long as a SHA-256
Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]
Time = Annotated[str, msgspec.Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Size = Annotated[int, msgspec.Meta(ge=0)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The schema's structs take exactly their own fields. The library itself would take much more."""


class SignatureSchema(Strict, frozen=True):
    keyid: Hex32
    sig: Hex64


class KeyValueSchema(Strict, frozen=True):
    public: Hex32


class KeySchema(Strict, frozen=True):
    keytype: Literal["ed25519"]
    scheme: Literal["ed25519"]
    keyval: KeyValueSchema


class RoleSchema(Strict, frozen=True):
    keyids: list[Hex32]
    threshold: AtLeastOne


class HashesSchema(Strict, frozen=True):
    sha256: Sha256


class FileSchema(Strict, frozen=True):
    length: Size
    hashes: HashesSchema


class SignedSchema(Strict, frozen=True):
    spec_version: str
    version: AtLeastOne
    expires: Time
    signed_at: Time = msgspec.field(name=SIGNED_AT)


class RootSchema(SignedSchema, frozen=True):
    type: Literal["root"] = msgspec.field(name="_type")
    consistent_snapshot: Literal[False]
    keys: dict[Hex32, KeySchema]
    roles: dict[Literal["root", "targets", "snapshot", "timestamp"], RoleSchema]


class TargetsSchema(SignedSchema, frozen=True):
    type: Literal["targets"] = msgspec.field(name="_type")
    targets: dict[str, FileSchema]


class RootDocument(Strict, frozen=True):
    signatures: list[SignatureSchema]
    signed: RootSchema


class TargetsDocument(Strict, frozen=True):
    signatures: list[SignatureSchema]
    signed: TargetsSchema


SCHEMAS: dict[str, type[Strict]] = {ROOT: RootDocument, TARGETS: TargetsDocument}


def tuf() -> Any:
    """Import the metadata library; raises InputError with the extra that brings it."""
    library("cryptography", "trust", "signed metadata")
    return library("tuf.api.metadata", "trust", "signed metadata")


def encode(metadata: Metadata[Any]) -> bytes:
    """Return the one accepted spelling: sorted, without white space."""
    return json.dumps(metadata.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def decode(data: bytes, role: str, where: object) -> Metadata[Any]:
    """Parse the metadata of ``role``; raises TrustError for anything that :func:`encode` would not have written."""
    if len(data) > MAX_BYTES[role]:
        raise TrustError(f"{where} is larger than {MAX_BYTES[role] >> 10} KiB; sign the bundle again")
    library_of = tuf()
    try:
        msgspec.json.decode(data, type=SCHEMAS[role])
        metadata: Metadata[Any] = library_of.Metadata.from_dict(json.loads(data))
        spelling = encode(metadata)
        signed_at(metadata.signed)
    except Exception as error:  # what passes the schema may still meet exceptions of every kind in the library
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrustError(f"{where} is not valid {role} metadata ({reason}); sign the bundle again") from None
    if spelling != data:
        raise TrustError(f"{where} is not spelt as `roadworthy sign` does, so it was changed; copy the bundle again")
    return metadata


def signed_at(signed: Root | Targets) -> datetime:
    """Return when the metadata was signed, by the publisher's clock."""
    text: str = signed.unrecognized_fields[SIGNED_AT]
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc)


def check_signatures(
    metadata: Metadata[Any], role: str, authorities: Sequence[Root], where: object, *, others: bool = False
) -> None:
    """Raise TrustError unless every authority's threshold is met, and every signature is valid and of one of them.

    ``others``: let signatures pass that none of the authorities knows.
    """
    payload = metadata.signed_bytes
    counted: set[str] = set()
    for root in authorities:
        result = root.get_verification_result(role, payload, metadata.signatures)
        if not result:
            raise TrustError(
                f"{where} has {len(result.signed)} of the {result.threshold} valid {role} signatures that root version "
                f"{root.version} asks for: wrong or retired keys, too few, or a change; get it from its publisher"
            )
        counted |= set(result.signed)
    surplus = sorted(set(metadata.signatures) - counted)
    if surplus and not others:
        raise TrustError(f"{where} has a signature that does not count (key {surplus[0][:8]}); sign the bundle again")
