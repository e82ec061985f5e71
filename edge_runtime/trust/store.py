"""What a device believes, on its disk: accepted roots, the highest accepted version, the newest time seen."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from edge_runtime.errors import TrustError
from edge_runtime.trust.durable import write_durably
from edge_runtime.trust.metadata import ROOT, decode, signed_at
from edge_runtime.trust.verification import (
    ROOT_FILE,
    Acceptance,
    Trusted,
    check_expiry,
    check_link,
    check_root,
    judged_time,
    read_bounded,
    root_name,
)

VARIABLE = "ROADWORTHY_TRUST"
SYSTEM = Path("/var/lib/roadworthy/trust")
STATE = "state.json"
LOCK = "lock"
FORMAT = 1


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``state.json``; the fields of :class:`Trusted` but the roots, and the version of the newest root."""

    root: int
    newest: datetime
    highest: int = 0
    digest: str = ""
    allowed: str = ""
    format: int = FORMAT


class TrustStore:
    """The folder that holds a device's beliefs. Whoever may write there decides what the device believes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_installed(self) -> bool:
        """Say whether there is a root of trust; raises TrustError where the system does not let one look."""
        try:
            return any(name == STATE or ROOT_FILE.fullmatch(name) for name in os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise TrustError(f"{self.folder} cannot be read ({error.strerror}); run as a user who may") from None

    def load(self) -> Trusted:
        """Return what the device believes; raises TrustError where a part of it is missing or damaged."""
        state = self._state()
        names = [name for name in os.listdir(self.folder) if ROOT_FILE.fullmatch(name)]
        roots = {int(name.partition(".")[0]): read_bounded(self.folder, name) for name in names}
        # A root that was stored before a power cut, but not yet counted, is met again with the next bundle.
        roots = {version: data for version, data in roots.items() if version <= state.root}
        if state.root not in roots:
            raise self._damaged(f"{root_name(state.root)} is missing")
        return Trusted(roots, state.highest, state.digest, state.allowed, state.newest)

    def install(self, files: Sequence[Path], clock: datetime | None = None) -> int:
        """Take roots, oldest first, for trusted: the first ever by the caller's word, then only by a link to it.

        Returns the version that now decides. Raises TrustError for a root that is expired or does not follow.
        """
        clock = clock or datetime.now(timezone.utc)
        with self._locked():
            trusted = self.load() if self.is_installed() else None
            roots = dict(trusted.roots) if trusted else {}
            for path in files:
                data = read_bounded(path.parent, path.name)
                version = decode(data, ROOT, path).signed.version
                if roots:
                    check_successor(roots, version, data, path)
                roots[version] = check_root(data, version, path.parent) if not roots else data
            newest = max(roots)
            root = decode(roots[newest], ROOT, self.folder).signed
            before = trusted or Trusted(roots)
            now = judged_time(clock, before.newest, signed_at(root))
            check_expiry(root, now, str(files[-1]))
            self._write(before, roots, now)
            return newest

    def accept(self, acceptance: Acceptance) -> None:
        """Remember an activated bundle: nothing older is accepted from now on."""
        with self._locked():
            trusted = self.load()
            if acceptance.version < trusted.highest:
                return  # the one gone back to: what was accepted stays the bound
            accepted = Trusted(trusted.roots, acceptance.version, acceptance.digest, "", trusted.newest)
            self._write(accepted, {**trusted.roots, **acceptance.roots}, max(trusted.newest, acceptance.time))

    def allow(self, digest: str) -> None:
        """Let one older bundle pass: the last good one, which this device goes back to."""
        with self._locked():
            trusted = self.load()
            allowed = Trusted(trusted.roots, trusted.highest, trusted.digest, digest, trusted.newest)
            self._write(allowed, trusted.roots, trusted.newest)

    def _write(self, trusted: Trusted, roots: Mapping[int, bytes], newest: datetime) -> None:
        """Store roots first and the state that counts them last."""
        for version, data in roots.items():
            path = self.folder / root_name(version)
            if not path.exists() or path.read_bytes() != data:
                write_durably(path, data)
        state = State(
            root=max(roots), newest=newest, highest=trusted.highest, digest=trusted.digest, allowed=trusted.allowed
        )
        write_durably(self.folder / STATE, msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")

    def _state(self) -> State:
        try:
            state = msgspec.json.decode((self.folder / STATE).read_bytes(), type=State)
        except OSError as error:
            raise self._damaged(f"{STATE} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(f"{STATE} is damaged: {error}") from None
        if state.format > FORMAT:
            raise TrustError(f"{self.folder / STATE} is of a newer roadworthy (format {state.format}); update this one")
        return state

    def _damaged(self, what: str) -> TrustError:
        return TrustError(
            f"{self.folder}: {what}; remove the folder and install the root of trust again, from a source you trust"
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, making the folder where there is none."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise TrustError(
                f"{self.folder} cannot be written ({error.strerror}); run as a user who may, or set {VARIABLE}"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def check_successor(roots: dict[int, bytes], version: int, data: bytes, path: Path) -> None:
    """Raise TrustError unless a root is one of ``roots`` or follows the newest of them."""
    newest = max(roots)
    if roots.get(version) == data:
        return
    if version != newest + 1:
        raise TrustError(
            f"{path} is root version {version}, this device trusts version {newest}; install version {newest + 1} first"
            if version > newest
            else f"{path} is not the root version {version} that this device trusts; old roots are refused"
        )
    check_link(roots[newest], data, version, path.parent)


def default_store() -> TrustStore:
    """Return where this user's commands keep trust: $ROADWORTHY_TRUST, the system's folder, or the user's own."""
    named = os.environ.get(VARIABLE)
    if named:
        return TrustStore(Path(named))
    system = TrustStore(SYSTEM)
    if system.is_installed() or os.geteuid() == 0:
        return system
    base = os.environ.get("XDG_DATA_HOME")
    return TrustStore((Path(base) if base else Path.home() / ".local" / "share") / "roadworthy" / "trust")


def installed_store() -> TrustStore | None:
    """Return the store whose root decides here, None where no root was ever installed.

    Raises TrustError where $ROADWORTHY_TRUST names a folder without a root: a wrong path must not switch checks off.
    """
    store = default_store()
    if store.is_installed():
        return store
    if os.environ.get(VARIABLE):
        raise TrustError(
            f"{VARIABLE} is {store.folder}, which holds no root; `roadworthy trust install` one, or unset {VARIABLE}"
        )
    return None
