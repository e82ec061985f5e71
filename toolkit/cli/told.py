"""What the vehicle loop says of itself, line by line on stderr: a service's journal takes it from there."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator

from edge_runtime.text import printable

# Lines that wait for a reader of stderr; beyond them lines are lost, never frames. All stand in the audit log.
MOST_WAITING = 1000
CLOSING_SECONDS = 0.5


class _Waiting(logging.Handler):
    """Queues records as lines; never waits."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.lines.put_nowait(f"{printable(record.getMessage())}\n".encode())

    def write(self, descriptor: int) -> None:
        """Write lines until None comes, or nobody reads any more."""
        with contextlib.suppress(OSError):
            while (line := self.lines.get()) is not None:
                os.write(descriptor, line)


@contextlib.contextmanager
def events_on_stderr() -> Iterator[None]:
    """Write the loop's events to stderr while the block runs, in a thread of its own: no pipe holds up a frame."""
    try:
        # Past Python's own buffer, whose lock a stalled thread would hold while the process ends.
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # there is none
        yield
        return
    logger, waiting = logging.getLogger("edge_runtime.loop"), _Waiting()
    thread = threading.Thread(target=waiting.write, args=(descriptor,), name="stderr", daemon=True)
    level = logger.level
    thread.start()
    logger.addHandler(waiting)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(waiting)
        with contextlib.suppress(queue.Full):
            waiting.lines.put_nowait(None)
        thread.join(CLOSING_SECONDS)
        if not thread.is_alive():
            os.close(descriptor)
