"""Take a log off a vehicle while it is written: one file that verifies by itself, and its anchor beside it."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from edge_runtime.errors import LogError
from edge_runtime.folders import check_new, new_file
from edge_runtime.log.anchor_file import anchor_path
from edge_runtime.log.chain import Anchor
from edge_runtime.log.snapshot import open_snapshot
from edge_runtime.log.verification import verify


def copy_log(log: Path, out: Path, *, force: bool = False) -> Anchor | None:
    """Copy a log, live or not, with what its WAL holds, to the single file ``out`` and return the copy's head.

    The copy is verified before it gets its name, and the head is written beside it (``OUT-anchor``). Raises LogError
    for a log that cannot be read or does not verify, and for an existing ``out`` without ``force``.
    """
    check_new(out, force=force, error=LogError)
    check(log, log)
    with new_file(out, force=force, error=LogError) as temporary:
        try:
            with open_snapshot(log) as source:
                target = apsw.Connection(str(temporary))
                with target.backup("main", source, "main") as backup:
                    backup.step()
                target.pragma("journal_mode", "delete")
                target.execute("UPDATE head SET open = 0")  # the copy needs no WAL: it holds what that one held
                target.close()
        except apsw.Error as error:
            raise LogError(f"{log} cannot be copied: {error}") from error
        head = check(temporary, log)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    if head is not None:
        anchor_path(out).write_text(f"{head}\n", encoding="ascii")
    return head


def check(path: Path, log: Path) -> Anchor | None:
    """Return the head of the log at ``path``; raises LogError in the name of ``log`` where it does not verify."""
    result = verify(path)
    if not result.ok:
        raise LogError(f"{log}: {result.problem}; copy its files as they are, for they are evidence")
    return result.head
