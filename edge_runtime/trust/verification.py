"""Is this bundle the publisher's, whole, not older than what was accepted before, and not expired?"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import METADATA, Bundle, listed, open_bundle, open_plain
from edge_runtime.errors import TrustError
from edge_runtime.manifest import MANIFEST, FileEntry
from edge_runtime.trust.metadata import (
    MAX_BYTES,
    ROOT,
    TARGETS,
    TIME_FORMAT,
    check_signatures,
    decode,
    signed_at,
)

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Targets

TARGETS_FILE = "targets.json"
ROOT_FILE = re.compile(r"([1-9][0-9]{0,5})\.root\.json")
MAX_ROOTS = 256  # a bundle may not keep a device busy with a chain of roots without end


@dataclass(frozen=True)
class Trusted:
    """What a device believes before it sees a bundle.

    ``roots``: every accepted root's bytes by version; the highest one decides. ``highest`` and ``digest``: version of
    the newest accepted targets metadata and the SHA-256 of what was signed in it. ``allowed``: digest of the one older
    bundle that this device went back to. ``newest``: the newest time that was ever taken for true.
    """

    roots: Mapping[int, bytes]
    highest: int = 0
    digest: str = ""
    allowed: str = ""
    newest: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Acceptance:
    """What a verified bundle adds to a device's beliefs; ``roots`` are those that it did not know."""

    version: int
    digest: str
    expires: datetime
    time: datetime
    root_version: int
    roots: Mapping[int, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"version {self.version}, root version {self.root_version}, until {self.expires:%Y-%m-%d}"


def open_trusted(
    path: str | os.PathLike[str], trusted: Trusted, clock: datetime | None = None
) -> tuple[Bundle, Acceptance]:
    """Open the bundle ``path`` if ``trusted`` leads to its signatures; ``clock`` is the system's, by default now.

    Raises TrustError for metadata that is not acceptable, BundleError for files that are not what was signed.
    """
    found: list[Acceptance] = []

    def authorise(folder: Path, manifest: bytes) -> dict[str, FileEntry]:
        acceptance, targets = verify_metadata(folder / METADATA, trusted, clock or datetime.now(timezone.utc))
        found.append(acceptance)
        return signed_files(targets, manifest, folder)

    bundle = open_bundle(path, authorise)
    return bundle, found[0]


def verify_metadata(folder: Path, trusted: Trusted, clock: datetime) -> tuple[Acceptance, Targets]:
    """Verify a bundle's ``metadata/`` and return what it proves, with its targets."""
    files = read_metadata(folder)
    targets_data = files.pop(TARGETS_FILE, None)
    if targets_data is None:
        raise TrustError(f"{folder.parent} is not signed: it holds no {METADATA}/{TARGETS_FILE}; `roadworthy sign` it")
    roots = {int(name.partition(".")[0]): data for name, data in files.items()}
    root, fresh = follow_roots(folder, roots, trusted)
    where = folder / TARGETS_FILE
    metadata: Metadata[Targets] = decode(targets_data, TARGETS, where)
    check_signatures(metadata, TARGETS, [root], where)
    targets = metadata.signed
    digest = hashlib.sha256(metadata.signed_bytes).hexdigest()
    check_version(targets.version, digest, trusted, where)
    now = judged_time(clock, trusted.newest, signed_at(root), signed_at(targets))
    check_expiry(root, now, f"{folder}: root version {root.version}")
    check_expiry(targets, now, str(where))
    acceptance = Acceptance(
        version=targets.version,
        digest=digest,
        expires=min(targets.expires, root.expires),
        time=now,
        root_version=root.version,
        roots=fresh,
    )
    return acceptance, targets


def targets_digest(folder: Path) -> str:
    """Return the digest of what a bundle's ``metadata/`` claims was signed; it proves nothing by itself."""
    metadata = decode(read_bounded(folder, TARGETS_FILE), TARGETS, folder / TARGETS_FILE)
    return hashlib.sha256(metadata.signed_bytes).hexdigest()


def read_metadata(folder: Path) -> dict[str, bytes]:
    """Return the files of ``metadata/`` by name; raises TrustError for others than roots and targets."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    strange = [name for name in names if name != TARGETS_FILE and not ROOT_FILE.fullmatch(name)]
    if strange:
        raise TrustError(f"{folder} holds {listed(strange)}, which is no signed metadata; remove it")
    if len(names) > MAX_ROOTS + 1:
        raise TrustError(f"{folder} holds {len(names)} files, more than {MAX_ROOTS + 1}; do not use this bundle")
    return {name: read_bounded(folder, name) for name in names}


def read_bounded(folder: Path, name: str) -> bytes:
    """Return a metadata file's bytes, at most one more than is allowed."""
    limit = MAX_BYTES[TARGETS if name == TARGETS_FILE else ROOT]
    with open_plain(folder, name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TrustError(f"{folder / name} is larger than {limit >> 10} KiB; sign the bundle again")
    return data


def follow_roots(folder: Path, roots: Mapping[int, bytes], trusted: Trusted) -> tuple[Root, dict[int, bytes]]:
    """Walk from the trusted root to the newest of ``roots``; return it, and those that were new.

    Each new root is signed by a threshold of the one before it and of its own. Roots that are older than the trusted
    one prove nothing, but are held to the same: known ones byte for byte, others by the link to their successor.
    """
    newest = max(trusted.roots)
    versions = sorted(roots)
    if versions != list(range(1, len(versions) + 1)):
        raise TrustError(f"{folder} lacks one of the roots 1 to {versions[-1]}; sign the bundle again")
    known = dict(trusted.roots)
    if len(versions) + 1 < min(known):
        raise TrustError(f"{folder} ends with a root older than this device's; sign the bundle with the newest root")
    for version in range(newest + 1, max(versions, default=0) + 1):
        check_link(known[version - 1], roots[version], version, folder)
        known[version] = roots[version]
    for version in sorted((each for each in versions if each <= newest), reverse=True):
        if version in known and known[version] != roots[version]:
            raise TrustError(f"{folder}: root version {version} is not the one that this device trusts; do not use it")
        if version not in known:
            check_link(roots[version], known[version + 1], version + 1, folder)
            known[version] = roots[version]
    if versions and 1 not in trusted.roots:
        check_root(roots[1], 1, folder)
    fresh = {version: data for version, data in known.items() if version > newest}
    return decode(known[max(known)], ROOT, folder / root_name(max(known))).signed, fresh


def check_root(data: bytes, version: int, folder: Path) -> bytes:
    """Return a root's bytes once they are found to be version ``version``, signed by itself.

    A later one also carries the signatures of its predecessor's keys, which it need not name.
    """
    where = folder / root_name(version)
    metadata = decode(data, ROOT, where)
    if metadata.signed.version != version:
        raise TrustError(f"{where} is root version {metadata.signed.version}; copy the bundle again")
    check_signatures(metadata, ROOT, [metadata.signed], where, others=version > 1)
    return data


def check_link(older: bytes, newer: bytes, version: int, folder: Path) -> None:
    """Raise TrustError unless root ``version``, the bytes ``newer``, follows ``older``."""
    where = folder / root_name(version)
    before: Metadata[Any] = decode(older, ROOT, folder / root_name(version - 1))
    after: Metadata[Any] = decode(newer, ROOT, where)
    if after.signed.version != version or before.signed.version != version - 1:
        raise TrustError(f"{where} is root version {after.signed.version}; copy the bundle again")
    check_signatures(after, ROOT, [before.signed, after.signed], where)


def root_name(version: int) -> str:
    return f"{version}.root.json"


def check_version(version: int, digest: str, trusted: Trusted, where: Path) -> None:
    """Raise TrustError for a bundle older than the newest that was accepted, except the one gone back to."""
    if digest == trusted.allowed:
        return
    if version < trusted.highest:
        raise TrustError(
            f"{where} has version {version}, this device has accepted version {trusted.highest}; "
            f"old versions are refused, get a newer bundle"
        )
    if version == trusted.highest and digest != trusted.digest:
        raise TrustError(f"{where}: another bundle of version {version} was accepted; sign this one as a newer version")


def judged_time(clock: datetime, *bounds: datetime) -> datetime:
    """Return the time that expiry is judged by: never before what is known to have been (docs/trust.md)."""
    return max(clock, *bounds)


def check_expiry(signed: Root | Targets, now: datetime, where: str) -> None:
    if now >= signed.expires:
        raise TrustError(f"{where} expired at {signed.expires.strftime(TIME_FORMAT)}; get a newly signed bundle")


def signed_files(targets: Targets, manifest: bytes, folder: Path) -> dict[str, FileEntry]:
    """Return what was signed about every file but the manifest, once the manifest is found to be the signed one."""
    entries = {
        name: FileEntry(size=file.length, sha256=file.hashes["sha256"]) for name, file in targets.targets.items()
    }
    stated = entries.pop(MANIFEST, None)
    if stated != FileEntry(size=len(manifest), sha256=hashlib.sha256(manifest).hexdigest()):
        raise TrustError(f"{folder / MANIFEST} is not the one that was signed; copy the bundle again")
    return entries
