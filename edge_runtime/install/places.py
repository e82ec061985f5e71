"""Where installed bundles lie: a folder per version, and two links that are only ever replaced whole.

versions/000007-33555003126f7073/    version and the manifest's SHA-256
current  -> versions/...             what the vehicle runs
previous -> versions/...             the last good one
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InstallError
from edge_runtime.trust.durable import sync_folder

SYSTEM = Path("/var/lib/roadworthy/bundles")
VERSIONS, CURRENT, PREVIOUS, LOCK = "versions", "current", "previous", "lock"
INCOMING = ".incoming"
VERSION_NAME = re.compile(r"[0-9]{6,}-[0-9a-f]{16}(\.[0-9]+)?")


@dataclass(frozen=True)
class Place:
    """One installed bundle; ``role`` is "current", "previous" or "" ."""

    name: str
    path: Path
    role: str


class Places:
    """The folder of installed bundles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions = folder / VERSIONS

    def target(self, link: str) -> str | None:
        """Return the name of the version that ``link`` points to, None where it is absent or leads elsewhere."""
        try:
            parent, _, name = os.readlink(self.folder / link).rpartition("/")
        except OSError:
            return None
        return name if parent == VERSIONS and VERSION_NAME.fullmatch(name) and (self.versions / name).is_dir() else None

    def point(self, link: str, name: str | None) -> None:
        """Let ``link`` point to version ``name`` (None: remove it), in one step that a power cut cannot halve."""
        path, temporary = self.folder / link, self.folder / f".{link}.new"
        if name is None:
            path.unlink(missing_ok=True)
        else:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(f"{VERSIONS}/{name}")
            os.replace(temporary, path)
        sync_folder(self.folder)

    def fresh_name(self, version: int, digest: str) -> str:
        """Return a name for a new version; a damaged one of the same name keeps its own until it is removed."""
        plain = f"{version:06d}-{digest[:16]}"
        name, number = plain, 1
        while (self.versions / name).exists():
            number += 1
            name = f"{plain}.{number}"
        return name

    def remove_rest(self, *, incoming_only: bool = False) -> None:
        """Remove what interrupted installations left, and versions that no link points to."""
        kept = {self.target(CURRENT), self.target(PREVIOUS)}
        for path in sorted(self.versions.iterdir()):
            is_rest = path.name.startswith(INCOMING) or (not incoming_only and path.name not in kept)
            if is_rest and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        sync_folder(self.versions)

    def listed(self) -> list[Place]:
        """Return every installed bundle, oldest version first."""
        roles = {self.target(link): link for link in (PREVIOUS, CURRENT)}
        names = sorted(os.listdir(self.versions)) if self.versions.is_dir() else []
        return [
            Place(name, self.versions / name, roles.get(name, "")) for name in names if VERSION_NAME.fullmatch(name)
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where there is none and hold its lock; raises InstallError when it is taken."""
        try:
            self.versions.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InstallError(
                f"{self.folder} cannot be written ({error.strerror}); choose another with --to"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise InstallError(f"{self.folder}: another installation is running; wait for it to end") from None
        finally:
            os.close(descriptor)


def default_folder() -> Path:
    """Return where bundles are installed by default: the system's folder for root, else the user's own."""
    if os.geteuid() == 0:
        return SYSTEM
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "roadworthy" / "bundles"
