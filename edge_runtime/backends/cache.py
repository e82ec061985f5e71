"""The device's own engines: each file beside a record of what it is and of its SHA-256, in a folder of its owner alone.

An engine is code for the GPU, so only what this device built and nobody else could have written is ever loaded. The
record guards against what goes wrong by itself (an update of TensorRT, another board under the same disk, a damaged
file); the folder's permissions guard against others. A file that is not what its record says is as good as absent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from edge_runtime.backends.keys import BuildOptions, EngineKey, Platform, Profile, digest, mismatch
from edge_runtime.errors import ProviderError
from edge_runtime.manifest import Sha256
from edge_runtime.trust.durable import write_durably

FORMAT = 1
ENGINE, TIMING, RECORD = ".engine", ".timing", ".json"
LOCK = "lock"
MAX_RECORD_BYTES = 1 << 16
MAX_FILE_BYTES = 4 << 30
OWNER_ONLY = 0o600

Kind = TypeVar("Kind", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies beside an engine. ``file`` is the bundle's file, ``bundle`` its name; ``seconds`` the build took."""

    key: EngineKey
    bundle: str
    file: str
    size: int
    sha256: Sha256
    built: str
    seconds: float
    format: int = FORMAT


class TimingRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies beside a timing cache: TensorRT's measurements of single layers, which make later builds shorter."""

    platform: Platform
    size: int
    sha256: Sha256
    format: int = FORMAT


@dataclass(frozen=True)
class Entry:
    """One engine of the cache; ``problem`` says why it would not be loaded, None where it would."""

    name: str
    record: Record | None
    problem: str | None


@dataclass(frozen=True)
class Subject:
    """What an engine is built from: the bundle's name, its file, that file's SHA-256 and the engine's profiles."""

    bundle: str
    file: str
    model: str
    profiles: tuple[Profile, ...]

    def key(self, platform: Platform, options: BuildOptions) -> EngineKey:
        return EngineKey(model=self.model, profiles=self.profiles, platform=platform, options=options)


def cache_root() -> Path:
    """Return the folder of all caches of engines: below ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadworthy" / "engines"


class EngineCache:
    """The folder of native engines and timing caches."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_root() / "native" if folder is None else folder

    def prepare(self) -> None:
        """Make the folder; raises ProviderError unless it is this user's alone."""
        private_folder(self.folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process build at a time: two would time their layers on a GPU that the other keeps busy."""
        self.prepare()
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, OWNER_ONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def find(
        self, subject: Subject, here: Platform, options: BuildOptions | None = None
    ) -> tuple[Record, bytes] | None:
        """Return record and bytes of the newest engine of ``subject`` that runs ``here``, None where there is none.

        ``options`` None takes an engine that was built in whichever way; its bytes are those that were hashed.
        """
        self.prepare()
        for name, record in sorted(self._records(), key=lambda pair: pair[1].built, reverse=True):
            key = record.key
            wanted = (key.model, key.profiles) == (subject.model, subject.profiles) and options in (None, key.options)
            if wanted and mismatch(key, here) is None and (data := self._verified(name + ENGINE, record)) is not None:
                return record, data
        return None

    def store(self, subject: Subject, key: EngineKey, plan: bytes, seconds: float) -> Record:
        """Keep an engine: first the file, then the record that makes it count."""
        record = Record(
            key=key,
            bundle=subject.bundle,
            file=subject.file,
            size=len(plan),
            sha256=hashlib.sha256(plan).hexdigest(),
            built=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 3),
        )
        self._write(key.digest, ENGINE, plan, record)
        return record

    def record(self, key: EngineKey) -> Record:
        """Return the record of an engine that was just found or stored; raises ProviderError where it is gone."""
        record = self._record(key.digest)
        if record is None:
            raise ProviderError(f"{self.folder}: the record of {key.digest} is gone; is another process clearing it?")
        return record

    def timing(self, here: Platform) -> bytes:
        """Return the timing cache of this platform, empty where there is none that can be trusted."""
        name = digest(here)
        record = decoded(self._read(name + TIMING + RECORD, MAX_RECORD_BYTES), TimingRecord)
        if record is None or record.platform != here:
            return b""
        return self._verified(name + TIMING, record) or b""

    def store_timing(self, here: Platform, data: bytes) -> None:
        """Keep the timing cache of this platform."""
        record = TimingRecord(platform=here, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        self._write(digest(here), TIMING, data, record)

    def entries(self, here: Platform | None = None) -> list[Entry]:
        """Return every engine, newest first, with what speaks against loading it (``here`` None: not the platform)."""
        if not self.folder.is_dir():
            return []
        self.prepare()
        found = []
        for path in sorted(self.folder.glob(f"*{ENGINE}")):
            name = path.name.removesuffix(ENGINE)
            record = self._record(name)
            if record is None:
                problem: str | None = "no record of what it is"
            elif self._verified(path.name, record) is None:
                problem = "not the file that was built"
            else:
                problem = None if here is None else mismatch(record.key, here)
            found.append(Entry(name, record, problem))
        return sorted(found, key=lambda entry: entry.record.built if entry.record else "", reverse=True)

    def clear(self, names: list[str] | None = None) -> int:
        """Remove engines by name (None: all, and the timing caches too); returns how many engines there were."""
        if not self.folder.is_dir():
            return 0
        with self.lock():
            engines = [entry.name for entry in self.entries() if names is None or entry.name in names]
            for path in sorted(self.folder.iterdir()):
                if path.name != LOCK and (names is None or path.name.partition(".")[0] in engines):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return len(engines)

    def _records(self) -> Iterator[tuple[str, Record]]:
        for path in self.folder.glob(f"*{ENGINE}"):
            name = path.name.removesuffix(ENGINE)
            if (record := self._record(name)) is not None:
                yield name, record

    def _record(self, name: str) -> Record | None:
        """Return the record of an engine, None where it is missing, damaged, or of another key than its name says."""
        record = decoded(self._read(name + ENGINE + RECORD, MAX_RECORD_BYTES), Record)
        return record if record is not None and record.format == FORMAT and record.key.digest == name else None

    def _verified(self, name: str, record: Record | TimingRecord) -> bytes | None:
        data = self._read(name, min(record.size, MAX_FILE_BYTES))
        if data is None or len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        return data

    def _read(self, name: str, most: int) -> bytes | None:
        """Return a file's bytes, None unless it is a plain file of this user alone and at most ``most`` bytes long."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not is_private(status) or status.st_size > most:
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most + 1)

    def _write(self, name: str, suffix: str, data: bytes, record: Record | TimingRecord) -> None:
        self.prepare()
        described = msgspec.json.format(msgspec.json.encode(record), indent=2)
        try:
            # An engine without a record is never loaded, so the old record goes before the new engine comes.
            (self.folder / f"{name}{suffix}{RECORD}").unlink(missing_ok=True)
            write_durably(self.folder / f"{name}{suffix}", data, OWNER_ONLY)
            write_durably(self.folder / f"{name}{suffix}{RECORD}", described + b"\n", OWNER_ONLY)
        except OSError as error:
            raise ProviderError(
                f"{self.folder} cannot be written ({error.strerror}); make room, or set XDG_CACHE_HOME"
            ) from None


def private_folder(folder: Path) -> None:
    """Make ``folder`` for its owner alone; raises ProviderError where one is there that others may write or read."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = os.lstat(folder)
    except OSError as error:
        raise ProviderError(
            f"{folder} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or not is_private(status):
        raise ProviderError(
            f"{folder} is not a folder of this user alone, so nothing in it is loaded; remove it, or chmod 700"
        )


def is_private(status: os.stat_result) -> bool:
    """Say whether this user owns a file or folder and nobody else may read or write it."""
    return status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077


def decoded(data: bytes | None, kind: type[Kind]) -> Kind | None:
    """Return a record, None where there is none or it is damaged."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
