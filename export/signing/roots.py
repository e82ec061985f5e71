"""The root of trust: made once, and rotated so that devices in the field follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError, TrustError, unknown
from edge_runtime.trust.metadata import ROOT, SIGNED_AT, TARGETS, TIME_FORMAT, decode, encode, tuf
from export.signing.key_folder import KeyFolder

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, Root

ROLES = (ROOT, TARGETS)
ROOT_DAYS = 3650
MOST_KEYS = 16


@dataclass(frozen=True)
class Plan:
    """How many keys a root names, how many of them must sign, and for how many days it holds."""

    root_keys: int = 1
    root_threshold: int = 1
    targets_keys: int = 1
    targets_threshold: int = 1
    days: int = ROOT_DAYS

    def check(self) -> None:
        """Raise InputError for numbers that cannot be."""
        for role, keys, threshold in (
            (ROOT, self.root_keys, self.root_threshold),
            (TARGETS, self.targets_keys, self.targets_threshold),
        ):
            if not 1 <= threshold <= keys <= MOST_KEYS:
                raise InputError(f"{threshold} of {keys} {role} keys cannot be; ask for 1 to {MOST_KEYS} keys")
        check_days(self.days)


def check_days(days: int) -> None:
    if not 1 <= days <= 100 * 365:
        raise InputError(f"{days} days cannot be; give 1 to {100 * 365}")


def create_keys(folder: Path, passphrase: str, plan: Plan) -> Path:
    """Make keys and the first root in ``folder`` and return the root's path; raises TrustError for one in use."""
    plan.check()
    library_of = tuf()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TrustError(f"{folder} already exists and is not empty; keys are never overwritten, choose another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = KeyFolder(folder, passphrase)
    now = moment()
    root = library_of.Root(
        version=1,
        expires=now + timedelta(days=plan.days),
        consistent_snapshot=False,
        unrecognized_fields={SIGNED_AT: now.strftime(TIME_FORMAT)},
    )
    counts = {ROOT: (plan.root_keys, plan.root_threshold), TARGETS: (plan.targets_keys, plan.targets_threshold)}
    signers: dict[str, list[CryptoSigner]] = {}
    for role, (count, threshold) in counts.items():
        signers[role] = [keys.create_key(role) for _ in range(count)]
        for signer in signers[role]:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = threshold
    return keys.add_root(signed(library_of.Metadata(root), signers[ROOT]))


def rotate_keys(folder: Path, passphrase: str, role: str, key: str | None = None, days: int = ROOT_DAYS) -> Path:
    """Replace the role's keys, or the one whose id begins with ``key``, by new ones in a new root; return its path.

    The new root is signed by the old root keys and by the new ones. Private keys that retire stay on the disk.
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    check_days(days)
    keys = KeyFolder(folder, passphrase)
    before = keys.root()
    retiring = [each for each in before.roles[role].keyids if key is None or each.startswith(key)]
    if not retiring:
        raise TrustError(f"root version {before.version} names no {role} key {key!r}; see `roadworthy keys show`")
    # All that can fail for want of a key or its passphrase fails before a new key is made.
    old_signers = keys.signers(before, ROOT)
    remaining = set(before.roles[ROOT].keyids) - (set(retiring) if role == ROOT else set())
    document: Metadata[Root] = decode(keys.roots()[before.version], ROOT, folder)
    root = document.signed
    now = moment()
    root.version += 1
    root.expires = now + timedelta(days=days)
    root.unrecognized_fields[SIGNED_AT] = now.strftime(TIME_FORMAT)
    fresh = [keys.create_key(role) for _ in retiring]
    for signer, retired in zip(fresh, retiring, strict=True):
        root.revoke_key(retired, role)
        root.add_key(signer.public_key, role)
    own = [signer for signer in old_signers if signer.public_key.keyid in remaining]
    own += fresh if role == ROOT else []
    if len(own) < root.roles[ROOT].threshold:
        raise TrustError(f"{folder} holds too few keys for the new root; bring the other root keys there")
    by_id = {signer.public_key.keyid: signer for signer in [*old_signers, *own]}
    return keys.add_root(signed(tuf().Metadata(root), list(by_id.values())))


def signed(metadata: Metadata[Root], signers: Sequence[CryptoSigner]) -> Metadata[Root]:
    """Sign with every signer, and make sure that what was signed can be read back."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    decode(encode(metadata), metadata.signed.type, "new metadata")
    return metadata


def moment() -> datetime:
    """Return the time in whole seconds, as metadata spells it."""
    return datetime.now(timezone.utc).replace(microsecond=0)
