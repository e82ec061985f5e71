"""What long work in a folder needs: to be alone in it, a log file for each piece, and to know a full disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edge_runtime.errors import RoadworthyError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
POLL = 0.5  # seconds between attempts at a lock
logger = logging.getLogger("toolkit")


@contextlib.contextmanager
def alone(folder: Path, busy: RoadworthyError) -> Iterator[None]:
    """Hold the folder's lock, which the kernel releases however this process ends; raises ``busy`` where it is held.

    Makes the folder. Raises RunError where it cannot be written.
    """
    with held(folder / LOCK) as got:
        if not got:
            raise busy
        yield


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of the file ``path``, which is made and stays.

    Without ``waiting`` the lock is tried once, and the block learns by True or False whether it is held. With it, the
    block begins when it is held, and ``waiting`` is called now and then until it is. Raises RunError where the file
    cannot be written or the file system takes no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror}; choose another folder") from error
    with file:
        got = _tried(file, path)
        while not got and waiting is not None:
            waiting()
            time.sleep(POLL)
            got = _tried(file, path)
        yield got


def _tried(file: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunError(f"{path} cannot be locked: {error.strerror}; choose a folder on another file system") from error
    return True


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[list[str]]:
    """Write the package's log records to ``path`` meanwhile; yields the list that warnings are added to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, remarks = _QuietFile(path, encoding="utf-8"), _Remarks()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in (file, remarks):
        logger.addHandler(handler)
    try:
        yield remarks.lines
    finally:
        for handler in (file, remarks):
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # flushing at close meets the same full disk
                handler.close()
        logger.setLevel(level)
        logger.propagate = propagate


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write in ``folder`` under a temporary name; only while alone in it."""
    for path in (*folder.glob(".*.new-*"), *folder.glob(".*.old-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def disk_full(error: BaseException | None) -> bool:
    """Tell whether ``error`` comes from a full disk, or from one that is full for this user."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def reason(error: Exception) -> str:
    """Return an expected failure's message, or a bug's kind and message, on one line."""
    text = str(error) if isinstance(error, RoadworthyError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


class _Remarks(logging.Handler):
    """Keeps warnings for a result."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.lines.append(record.getMessage())


class _QuietFile(logging.FileHandler):
    """A log that a full disk silences: the failure that matters is that of the result, which is reported."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass
