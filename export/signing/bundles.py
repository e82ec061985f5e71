"""Sign a bundle: the metadata names every file of it, a version, and an end."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import timedelta
from pathlib import Path

from edge_runtime.bundle import METADATA, open_bundle, read_manifest
from edge_runtime.errors import InputError, TrustError
from edge_runtime.manifest import MANIFEST
from edge_runtime.trust.durable import sync_folder, write_durably
from edge_runtime.trust.metadata import SIGNED_AT, TARGETS, TIME_FORMAT, encode, tuf
from edge_runtime.trust.verification import TARGETS_FILE, Acceptance, Trusted, open_trusted, root_name
from export.signing.key_folder import KeyFolder
from export.signing.roots import check_days, moment, signed

BUNDLE_DAYS = 365


def sign_bundle(
    bundle: str | os.PathLike[str],
    keys: str | os.PathLike[str],
    passphrase: str,
    *,
    version: int | None = None,
    days: int = BUNDLE_DAYS,
) -> Acceptance:
    """Put signed metadata into a bundle, in place of any older, and return what a device will accept.

    ``version`` is by default one more than the highest that these keys signed. The bundle is verified first, and again
    as a device will. Raises BundleError for a damaged bundle, TrustError for keys that cannot be used.
    """
    check_days(days)
    opened = open_bundle(bundle)
    folder, key_folder = Path(bundle), KeyFolder(Path(keys), passphrase)
    manifest = read_manifest(folder)
    roots, root = key_folder.roots(), key_folder.root()
    signers = key_folder.signers(root, TARGETS)
    last = key_folder.last_version()
    version = last + 1 if version is None else version
    if version <= last:
        raise InputError(f"version {version} was given before (the last was {last}); vehicles refuse it, give a newer")
    library_of = tuf()
    now = moment()
    expires = now + timedelta(days=days)
    if expires > root.expires:
        raise TrustError(f"the root expires at {root.expires.strftime(TIME_FORMAT)}, before the bundle; rotate a key")
    targets = library_of.Targets(
        version=version, expires=expires, unrecognized_fields={SIGNED_AT: now.strftime(TIME_FORMAT)}
    )
    targets.targets[MANIFEST] = library_of.TargetFile.from_data(MANIFEST, manifest, ["sha256"])
    for name, entry in opened.manifest.files.items():
        targets.targets[name] = library_of.TargetFile(entry.size, {"sha256": entry.sha256}, name)
    key_folder.note_version(version)
    metadata = {root_name(number): data for number, data in roots.items()}
    metadata[TARGETS_FILE] = encode(signed(library_of.Metadata(targets), signers))
    replace_metadata(folder, metadata)
    return open_trusted(folder, Trusted({root.version: roots[root.version]}))[1]


def replace_metadata(bundle: Path, files: dict[str, bytes]) -> None:
    """Swap the folder ``metadata/`` for a new one with ``files``."""
    token = uuid.uuid4().hex[:8]
    fresh, old = bundle.parent / f".{bundle.name}.metadata-{token}", bundle.parent / f".{bundle.name}.old-{token}"
    fresh.mkdir()
    try:
        for name, data in files.items():
            write_durably(fresh / name, data)
        if (bundle / METADATA).exists():
            (bundle / METADATA).rename(old)
        fresh.rename(bundle / METADATA)
        sync_folder(bundle)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
