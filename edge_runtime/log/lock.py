"""One writer per log: an advisory lock on the log file itself, beside SQLite's own locks.

SQLite's locks belong to the process and vanish when any descriptor of the file is closed in it, as reading a live log
in the writer's process does; this one belongs to its descriptor and stays.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edge_runtime.errors import LogError


class WriterLock:
    """Creates the file where there is none and holds its lock until ``release``. Raises LogError when it is taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        is_new = not path.exists()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LogError(f"{path} cannot be opened: {error.strerror}; choose a file in a writable folder") from error
        try:
            if is_new:
                sync_folder(path.parent)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise LogError(
                f"{path} is being written already, and a log has one writer: stop it or use another file"
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            raise LogError(f"{path} cannot be locked: {error.strerror}; choose a file on a local disk") from error

    @property
    def in_place(self) -> bool:
        """Whether the path still names the locked file: one that was removed takes every write, and keeps none."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back. Only after SQLite has closed the file, for closing drops SQLite's locks as well."""
        os.close(self._descriptor)


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable: SQLite does so for its WAL, not for the database itself."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
