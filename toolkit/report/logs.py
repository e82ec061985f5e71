"""Find audit logs among files and folders, check each, and bring it to Parquet: one after another, never all at once.

A log that does not verify, or an export that cannot be read to its end, is left out and named; the report goes on.
"""

from __future__ import annotations

import glob
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import DataError, InputError, LogError
from edge_runtime.log.export import LOG_ID, Source, write_parquet
from edge_runtime.log.snapshot import open_snapshot, wal_header
from edge_runtime.log.store import APPLICATION_ID
from edge_runtime.log.verification import verify
from edge_runtime.text import encodable

SQLITE, PARQUET = b"SQLite format 3\0", b"PAR1"
APPLICATION_ID_AT = slice(68, 72)  # of a SQLite file
# In a folder these are meant to be logs whatever they begin with; a damaged one must be named, not passed over.
LOG_ENDINGS = (".log", ".parquet")
DATABASE_ENDING = ".db"  # as well, unless it is a whole database of another program
NEEDED = {"sequence", "kind", "wall_ns", "bundle", "bundle_digest"}
ROWS_AT_ONCE = 1 << 16

Progress = Callable[[str, int, int], None]  # what is done, how many, of how many


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Problem:
    """A log that was left out, and why."""

    path: Path
    reason: str

    @property
    def name(self) -> str:
        """The path as text that any page can hold."""
        return encodable(self.path)


@dataclass(frozen=True)
class LogFile:
    """A log that is whole. ``table`` is its Parquet file; ``label`` tells it apart where it names no vehicle."""

    path: Path
    kind: str
    log_id: str | None
    last_sequence: int
    label: str = ""
    table: Path | None = None


@dataclass(frozen=True)
class Logs:
    """The logs that a report is made of, and those that it had to leave out."""

    files: tuple[LogFile, ...] = ()
    problems: tuple[Problem, ...] = ()


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return the paths, with patterns (``logs/**/*.log``) replaced by what they match."""
    found: list[Path] = []
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if not matches:
            raise DataError(f"{path} matches no file; name logs, or results of audit and bench")
        found += matches
    return found


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the logs in ``paths`` (files, or folders with all below them), and the paths that may hold results."""
    logs: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            logs += [file for file in walk(path) if is_meant(file)]
            others.append(path)
        elif path.is_file() and is_meant(path):
            logs.append(path)
        else:
            others.append(path)
    return list(dict.fromkeys(logs)), others


def is_meant(path: Path) -> bool:
    """Return whether a file is a log, or its name says that it was one."""
    if path.name.endswith(LOG_ENDINGS) or kind_of(path):
        return True
    return path.name.endswith(DATABASE_ENDING) and first_bytes(path)[: len(SQLITE)] != SQLITE


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, in order; pipes and devices, which would be waited for, are none."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        paths = (Path(base) / name for name in sorted(names))
        yield from (path for path in paths if path.is_file() or not path.exists())


def kind_of(path: Path) -> str | None:
    """Return "log" or "parquet" by a file's first bytes, None for anything else, other databases included."""
    start = first_bytes(path)
    if not start.startswith(SQLITE):
        return "parquet" if start.startswith(PARQUET) else None
    try:
        ours = start[APPLICATION_ID_AT] == APPLICATION_ID.to_bytes(4, "big") or wal_header(path) is not None
    except OSError:
        return None
    return "log" if ours else None


def first_bytes(path: Path) -> bytes:
    """Return what tells a file's kind; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(100)
    except OSError:
        return b""


def gather(paths: Sequence[Path], folder: Path, progress: Progress = quiet) -> Logs:
    """Check every log, and leave a Parquet file of each whole one in ``folder``.

    Of several copies of a log the longest counts. ``progress`` is told how many of how many are done.
    """
    problems: list[Problem] = []
    whole: dict[str, LogFile] = {}
    for done, path in enumerate(paths):
        progress("checking logs", done, len(paths))
        try:
            found = check(path)
        except (LogError, DataError, OSError) as error:
            problems.append(Problem(path, reason_of(error, path)))
            continue
        key = found.log_id or f"file {path.resolve()}"
        rival = whole.get(key)
        if rival is None:
            whole[key] = found
            continue
        longer, shorter = sorted((rival, found), key=lambda file: -file.last_sequence)
        whole[key] = longer
        problems.append(
            Problem(shorter.path, f"the same log as {encodable(longer.path)}, which goes as far or further")
        )
    files: list[LogFile] = []
    labels = label(whole.values())
    for number, found in enumerate(whole.values()):
        progress("reading logs", number, len(whole))
        try:
            files.append(
                replace(found, label=labels[found.path], table=to_table(found, folder / f"{number:06}.parquet"))
            )
        except (LogError, OSError) as error:
            problems.append(Problem(found.path, reason_of(error, found.path)))
    return Logs(tuple(files), tuple(problems))


def reason_of(error: Exception, path: Path) -> str:
    """Return an error's text without the path, which stands beside it."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return encodable(" ".join(text.removeprefix(f"{path}: ").removeprefix(f"{path} ").split()))


def check(path: Path) -> LogFile:
    """Return what a log is once all of it was read and found whole. Raises LogError or DataError where it is not."""
    if kind_of(path) == "parquet":
        return check_parquet(path)
    result = verify(path)
    if not result.ok:
        raise LogError(f"{result.problem}")
    return LogFile(path, "log", result.log_id, result.head.sequence if result.head else 0)


def check_parquet(path: Path) -> LogFile:
    """Read an export to its end, a few rows at a time, pages against their checksums."""
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    last = 0
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            missing = NEEDED - set(file.schema_arrow.names)
            if missing:
                raise DataError(f"{path} is no export of an audit log: it has no column {', '.join(sorted(missing))}")
            # Pictures are no part of the report, and most of the bytes.
            columns = [name for name in file.schema_arrow.names if name not in ("image", "saliency")]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                last = max(last, *batch.column("sequence").to_numpy(zero_copy_only=False), 0)
            log_id = (file.schema_arrow.metadata or {}).get(LOG_ID.encode(), b"").decode() or None
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return LogFile(path, "parquet", log_id, int(last))


def to_table(found: LogFile, out: Path) -> Path:
    """Leave a log's records at ``out`` as Parquet: an export by a link, for its path may look like a pattern."""
    if found.kind == "parquet":
        out.symlink_to(found.path.resolve())
        return out
    with open_snapshot(found.path) as db:
        write_parquet(Source(db, found.path), out, pictures=False)
    return out


def label(files: Iterable[LogFile]) -> dict[Path, str]:
    """Return what to call logs that name no vehicle: their paths below the folder that all share, without ending."""
    paths = [file.path for file in files]
    if not paths:
        return {}
    base = os.path.commonpath([path.resolve().parent for path in paths])
    return {path: encodable(path.resolve().relative_to(base).with_suffix("")) for path in paths}


def library(module: str) -> Any:
    """Import what reads Parquet. Raises InputError with the way to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        needed = module.partition(".")[0]
        raise InputError(f"reports of logs need {needed}: pip install 'roadworthy[desktop]'") from error
