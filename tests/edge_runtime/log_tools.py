"""What the log's tests share: records, a log on a faulty disk, and power cuts."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from edge_runtime.log import AuditLog, ExplainerReading, FrameRecord, Group, LogIdentity
from edge_runtime.log.clock import Clock
from edge_runtime.log.store import MIN_BYTES
from edge_runtime.log.writer import Surroundings

IDENTITY = LogIdentity(software="roadworthy test", bundle="signs", bundle_digest="ab" * 32)
EVERY_CALL = Group(records=10**9, seconds=1e9)  # commits only when told to

SECTOR = 512


def frame(number: int, picture_bytes: int = 0) -> FrameRecord:
    """Return a record that no other number gives."""
    return FrameRecord(
        frame_id=f"frame-{number}",
        prediction=number % 43,
        label="stop",
        probability=1 / (number + 1),
        latency_ms={"classify": 4.25 + number},
        explainers={"vg": ExplainerReading(gini=0.5, gradient_norm=number / 7, reduction="sum_abs")},
        saliency_method="vg" if picture_bytes else None,
        saliency=random.Random(number).randbytes(picture_bytes) if picture_bytes else None,
    )


def open_log(path: Path, vfs: str | None = None, **options: Any) -> AuditLog:
    """Open a small log that commits only when told to."""
    settings = {"max_bytes": MIN_BYTES, "group": EVERY_CALL, **options}
    return AuditLog(path, IDENTITY, surroundings=Surroundings(vfs=vfs), **settings)


def fill(path: Path, records: int, picture_bytes: int = 0, **options: Any) -> Path:
    """Write a log of frames 0..records-1, eight to a commit, and close it."""
    with open_log(path, **options) as log:
        for number in range(records):
            log.append(frame(number, picture_bytes))
            if number % 8 == 7:
                log.commit()
    return path


def copy_log(path: Path, folder: Path) -> Path:
    """Copy a log with its companions into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f"{path.name}*"):
        shutil.copyfile(part, folder / part.name)
    return folder / path.name


@dataclass
class Watch:
    """Clocks that stand where they are set."""

    wall: int = 1_800_000_000 * 10**9
    monotonic: int = 50 * 10**9
    boot: str | None = "first"

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.monotonic, lambda: self.boot)

    def advance(self, seconds: float, wall_seconds: float | None = None) -> None:
        self.monotonic += int(seconds * 1e9)
        self.wall += int((seconds if wall_seconds is None else wall_seconds) * 1e9)


_names = itertools.count()


class _File(apsw.VFSFile):
    """A file of :class:`HookedVFS`: tells the hook of every change before it happens."""

    def __init__(self, vfs: HookedVFS, filename: Any, flags: list[int]) -> None:
        super().__init__(vfs.base_name, filename, flags)
        self._vfs = vfs
        self._name = Path(filename.filename() if isinstance(filename, apsw.URIFilename) else filename).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        half = self._vfs.hook("write", self._name, offset, bytes(data))
        if half is not None:
            super().xWrite(data[: len(data) // 2], offset)
            raise half
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        # Told, not done: what a sync makes durable is for the simulation to say, and real ones take most of the time.
        self._vfs.change("sync", self._name)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._vfs.change("truncate", self._name, size)
        super().xTruncate(size)


class HookedVFS(apsw.VFS):
    """SQLite's way to the real disk with a hook before every write, sync, truncation and deletion.

    The hook returns None to let the change happen, or the exception to raise instead (after half of a write).
    """

    def __init__(self, hook: Callable[..., BaseException | None]) -> None:
        self.name, self.base_name = f"hooked-{next(_names)}", ""
        self.hook = hook
        super().__init__(self.name, self.base_name)

    def change(self, *what: Any) -> None:
        error = self.hook(*what)
        if error is not None:
            raise error

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.change("delete", Path(filename).name, syncdir)
        super().xDelete(filename, syncdir)


@contextlib.contextmanager
def hooked(hook: Callable[..., BaseException | None]) -> Iterator[str]:
    """Yield the name of a registered :class:`HookedVFS`."""
    vfs = HookedVFS(hook)
    try:
        yield vfs.name
    finally:
        vfs.unregister()


def storage_error(code: int) -> apsw.Error:
    """Return the exception that SQLite raises for an extended result code."""
    error = apsw.exception_for(code & 0xFF)
    error.extendedresult = code
    return error


@dataclass
class Trace:
    """Everything that was done to a log's files, in order, with the acknowledgements between.

    Operations are ("write", name, offset, data), ("truncate", name, size), ("delete", name, whether the folder is
    synced), ("sync", name) and ("acknowledged", anchor).
    """

    operations: list[tuple[Any, ...]] = field(default_factory=list)

    def __call__(self, *what: Any) -> None:
        self.operations.append(what)


Files = dict[str, bytes]


def read_files(folder: Path) -> Files:
    """Return the content of all files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_files(folder: Path, files: Files) -> None:
    """Make these files the only content of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def after_power_cut(durable: Files, operations: list[tuple[Any, ...]], randomness: random.Random) -> Files:
    """Return what the disk may hold when the power fails after ``operations``.

    A sync makes the earlier changes of its file durable. Of the others any subset may have reached the disk, in any
    order; of a write any subset of its 512-byte sectors. How eager the disk was differs from cut to cut.
    """
    files = {name: bytearray(content) for name, content in durable.items()}
    synced = {name: index for index, (kind, name, *_) in enumerate(operations) if kind == "sync"}
    eagerness = randomness.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    for index, operation in enumerate(operations):
        kind, name = operation[:2]
        is_durable = index < synced.get(name, -1)
        if kind == "write":
            _, _, offset, data = operation
            for start in range(0, len(data), SECTOR):
                if is_durable or randomness.random() < eagerness:
                    _put(files.setdefault(name, bytearray()), offset + start, data[start : start + SECTOR])
        elif kind == "truncate" and (is_durable or randomness.random() < eagerness):
            content = files.setdefault(name, bytearray())
            del content[operation[2] :]
        elif kind == "delete" and (operation[2] or randomness.random() < eagerness):
            files.pop(name, None)
        elif kind == "sync":
            files.setdefault(name, bytearray())
    return {name: bytes(content) for name, content in files.items()}


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
