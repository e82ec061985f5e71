"""The last acknowledged anchor in a small file beside the log (``LOG-anchor``).

Collected with the log, it shows whether the log's end is missing: with a forgotten WAL file, for example.

It is written after every acknowledgement without a sync, so after a power cut it may be behind the log or unreadable;
neither is a fault. It may never be ahead of the log.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge_runtime.errors import LogError
from edge_runtime.log.chain import Anchor


def anchor_path(path: Path) -> Path:
    """Return where the writer keeps the anchor of the log at ``path``."""
    return path.with_name(path.name + "-anchor")


def read_anchor(path: Path) -> Anchor | None:
    """Return the anchor beside the log, None where there is none to read."""
    try:
        return Anchor.parse(anchor_path(path).read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError, LogError):
        return None


class AnchorFile:
    """The writer's side. A failing write is no reason to stop logging; ``error`` tells of it."""

    def __init__(self, log: Path) -> None:
        self._path = anchor_path(log)
        self._descriptor: int | None = None
        self.error: str | None = None

    def write(self, head: Anchor) -> None:
        """Overwrite the anchor in place: always the same length, so always one sector."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.pwrite(self._descriptor, f"{head.sequence:018d}:{head.hash.hex()}\n".encode(), 0)
            self.error = None
        except OSError as error:
            self.error = f"{self._path} cannot be written: {error.strerror}"

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
