"""Read a log without touching it: not a byte of a collected log changes, and a live log's writer notices nothing.

Opening a WAL database the usual way would recover it, checkpoint it and remove its WAL file: evidence altered by
looking at it. A log without a WAL file is opened as immutable; one with a WAL file is copied first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import apsw

from edge_runtime.errors import LogError
from edge_runtime.log.store import check_schema

WAL_HEADER_BYTES = 32
ATTEMPTS = 50


def wal_path(path: Path) -> Path:
    """Return where SQLite keeps what is not yet in the database at ``path``."""
    return path.with_name(path.name + "-wal")


@contextlib.contextmanager
def open_snapshot(path: Path) -> Iterator[apsw.Connection]:
    """Yield a read-only connection to the log as it is now. Raises LogError when there is no readable log."""
    if not path.is_file():
        raise LogError(f"{path} does not exist; give the log file that the runtime wrote")
    if not path.stat().st_size:
        raise LogError(f"{path} is empty: nothing was ever logged there")
    with contextlib.ExitStack() as stack:
        try:
            if wal_header(path) is None:
                uri, flags = f"file:{quote(os.fsencode(path.absolute()))}?immutable=1", apsw.SQLITE_OPEN_READONLY
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roadworthy-log-")))
                uri, flags = f"file:{quote(str(_copy(path, folder)))}", apsw.SQLITE_OPEN_READWRITE
            db = apsw.Connection(uri, flags=flags | apsw.SQLITE_OPEN_URI)
            stack.callback(db.close, True)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # a copy is thrown away, not tidied up
            db.pragma("locking_mode", "exclusive")  # nor does it need shared memory
            check_schema(db, path)
        except apsw.NotADBError as error:
            raise LogError(f"{path} is no audit log; give the log file that the runtime wrote") from error
        except OSError as error:
            raise LogError(f"{path} cannot be read: {error.strerror}") from error
        except apsw.Error as error:
            raise LogError(f"{path} cannot be read: {error}") from error
        yield db


def wal_header(path: Path) -> bytes | None:
    """Return the WAL's header, None without a WAL that holds anything. It changes whenever the WAL starts anew."""
    try:
        with wal_path(path).open("rb") as file:
            return file.read(WAL_HEADER_BYTES) or None
    except FileNotFoundError:
        return None


def _copy(path: Path, folder: Path) -> Path:
    """Copy database and WAL so that they fit together even while the writer works.

    Checkpoints write to the database only what the WAL holds, and the WAL only grows until it starts anew with another
    header. With the same header before and after, the WAL, copied last, therefore holds every page of which the
    database's copy may have caught a half; frames that were being appended fail their checksum and do not count.
    """
    copy = folder / "log"
    for _ in range(ATTEMPTS):
        before = wal_header(path)
        shutil.copyfile(path, copy)
        if before is None:
            wal_path(copy).unlink(missing_ok=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(wal_path(path), wal_path(copy))
        if wal_header(path) == before:
            return copy
    raise LogError(f"{path} changes faster than it can be copied; try again, or stop its writer")
