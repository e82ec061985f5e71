"""Activate a bundle, step by step; whatever happens at any step, exactly one whole bundle is active."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.bundle import METADATA, Bundle, open_bundle, open_plain
from edge_runtime.errors import InstallError, RoadworthyError
from edge_runtime.install.bounded import Limits, bounded_self_test
from edge_runtime.install.places import CURRENT, INCOMING, PREVIOUS, Places
from edge_runtime.manifest import FP32, MANIFEST
from edge_runtime.self_test import SelfTest
from edge_runtime.sessions import DEFAULT_PROVIDER
from edge_runtime.trust.durable import sync_folder, write_durably
from edge_runtime.trust.store import TrustStore
from edge_runtime.trust.verification import Acceptance, open_trusted, read_metadata, targets_digest

# In this order; a function that is told of them may show progress, and tests cut the power there.
STEPS = (
    "locked",  # no other installation runs; what an interrupted one left is gone
    "checked",  # the source's signatures and files
    "copied",  # on this disk, synced
    "verified",  # the copy, as the source
    "tested",  # its golden set, in a bounded child
    "placed",  # under its own name
    "kept",  # the active one is noted as the last good one
    "switched",  # the new one is active
    "confirmed",  # read once more through the link
    "recorded",  # older versions are refused from now on
    "removed",  # versions that are neither active nor the last good one
)
SPARE_BYTES = 1 << 20  # folders and links need room too


@dataclass(frozen=True)
class Job:
    """How to install: ``limits`` and ``provider`` are the self-test's, ``trust`` is None where nothing is signed."""

    trust: TrustStore | None = None
    provider: str = DEFAULT_PROVIDER
    precision: str = FP32
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Installed:
    """What is active now. ``tested`` is None where it was already active, or was gone back to."""

    name: str
    path: Path
    accepted: Acceptance | None
    tested: SelfTest | None


def ignore(step: str) -> None:
    """Take no notice of a step."""


def install_bundle(
    source: Path, places: Places, job: Job | None = None, tell: Callable[[str], None] = ignore
) -> Installed:
    """Activate the bundle folder ``source`` in ``places``.

    Raises BundleError (TrustError) for a bundle that must not be used, InstallError for a self-test that fails, a full
    disk, or an installation that is running; the bundle that was active stays so. ``tell`` hears of every step.
    """
    job = job or Job()
    with places.locked():
        places.remove_rest(incoming_only=True)
        tell("locked")
        bundle, accepted = opened(source, job.trust)
        check_writable(job.trust)
        tell("checked")
        if is_active(bundle, accepted, places, job.trust):
            record(accepted, job.trust)
            return Installed(places.target(CURRENT) or "", places.folder / CURRENT, accepted, None)
        copy = places.versions / f"{INCOMING}-{uuid.uuid4().hex[:8]}"
        try:
            copy_durably(bundle, copy)
            tell("copied")
            bundle, accepted = opened(copy, job.trust)
            tell("verified")
            tested = bounded_self_test(copy, job.limits, job.provider, job.precision, job.threads)
            tell("tested")
            name = places.fresh_name(accepted.version if accepted else 0, bundle.digest)
            copy.rename(places.versions / name)
            sync_folder(places.versions)
        except OSError as error:
            raise InstallError(f"{source} was not installed: {error.strerror or error}") from error
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        tell("placed")
        switch(places, name, accepted, job.trust, tell)
        places.remove_rest()
        tell("removed")
        return Installed(name, places.folder / CURRENT, accepted, tested)


def opened(path: Path, trust: TrustStore | None) -> tuple[Bundle, Acceptance | None]:
    """Open a bundle with the signatures that the device demands."""
    return (open_bundle(path), None) if trust is None else open_trusted(path, trust.load())


def check_writable(trust: TrustStore | None) -> None:
    """Raise InstallError where an activation could not be remembered."""
    if trust is not None and not os.access(trust.folder, os.W_OK):
        raise InstallError(f"{trust.folder} cannot be written, so old versions could not be refused; run as its owner")


def is_active(bundle: Bundle, accepted: Acceptance | None, places: Places, trust: TrustStore | None) -> bool:
    """Say whether the very same bundle is active already, and whole."""
    if places.target(CURRENT) is None:
        return False
    try:
        active, there = opened(places.folder / CURRENT, trust)
    except RoadworthyError:
        return False
    same_signature = (there and there.digest) == (accepted and accepted.digest)
    return active.digest == bundle.digest and same_signature


def copy_durably(bundle: Bundle, copy: Path) -> None:
    """Copy a bundle's verified bytes and its metadata to a new folder, all of it synced.

    Raises InstallError where the disk has no room for it, OSError where the disk fails.
    """
    needed = sum(entry.size for entry in bundle.manifest.files.values()) + SPARE_BYTES
    free = shutil.disk_usage(copy.parent).free
    if free < needed:
        raise InstallError(f"{copy.parent} has {free >> 20} MiB free, the bundle needs {needed >> 20} MiB; make room")
    copy.mkdir()
    for name in bundle.manifest.files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        write_durably(copy / name, bundle.read(name))
    if (bundle.path / METADATA).is_dir():
        (copy / METADATA).mkdir()
        for name, data in read_metadata(bundle.path / METADATA).items():
            write_durably(copy / METADATA / name, data)
    with open_plain(bundle.path, MANIFEST) as file:
        write_durably(copy / MANIFEST, file.read())
    sync_folder(copy.parent)


def switch(
    places: Places, name: str, accepted: Acceptance | None, trust: TrustStore | None, tell: Callable[[str], None]
) -> None:
    """Make version ``name`` the active one; if it cannot be read or recorded there, go back to the one before."""
    before, kept = places.target(CURRENT), places.target(PREVIOUS)
    places.point(PREVIOUS, before)
    tell("kept")
    places.point(CURRENT, name)
    tell("switched")
    try:
        opened(places.folder / CURRENT, trust)
        tell("confirmed")
        record(accepted, trust)
    except (RoadworthyError, OSError):
        places.point(CURRENT, before)
        places.point(PREVIOUS, kept)
        raise
    tell("recorded")


def record(accepted: Acceptance | None, trust: TrustStore | None) -> None:
    if trust is not None and accepted is not None:
        trust.accept(accepted)


def roll_back(places: Places, trust: TrustStore | None = None) -> Installed:
    """Make the last good bundle the active one again; raises InstallError where there is none.

    It is older than the highest accepted version, so the device lets this one pass until the next installation.
    """
    with places.locked():
        name = places.target(PREVIOUS)
        if name is None:
            raise InstallError(f"{places.folder} keeps no bundle to go back to; install one")
        accepted = opened_whatever_version(places.versions / name, trust)[1]
        check_writable(trust)
        if trust is not None and accepted is not None:
            trust.allow(accepted.digest)
        places.point(CURRENT, name)
        places.point(PREVIOUS, None)
        return Installed(name, places.folder / CURRENT, accepted, None)


def opened_whatever_version(path: Path, trust: TrustStore | None) -> tuple[Bundle, Acceptance | None]:
    """Open a bundle that this device activated before: everything is checked but its version."""
    if trust is None:
        return open_bundle(path), None
    return open_trusted(path, dataclasses.replace(trust.load(), allowed=targets_digest(path / METADATA)))
