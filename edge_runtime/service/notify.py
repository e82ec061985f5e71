"""Tell the service manager that the loop works: by completed frames, never by a timer.

A timer's thread would go on feeding the watchdog while the loop hangs. Protocol: sd_notify(3), datagrams of NAME=VALUE
lines to the socket that ``NOTIFY_SOCKET`` names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

SOCKET, WATCHDOG, WATCHDOG_PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
FEEDS_PER_TIMEOUT = 4  # more frames than that within the watchdog's time are not worth a system call each


class Notifier:
    """Speaks to the service manager, or to nobody where none started this process. Never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get(SOCKET, "")
        # A leading @ stands for the zero byte of Linux's abstract sockets.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._interval = watchdog_seconds(environment) / FEEDS_PER_TIMEOUT
        self._fed = float("-inf")
        self._socket: socket.socket | None = None

    def ready(self, status: str) -> None:
        """Say that the model is loaded and frames are being taken."""
        self._send(f"READY=1\nSTATUS={status}")

    def frame_done(self) -> None:
        """Feed the watchdog: a frame was classified."""
        now = time.monotonic()
        if self._address and now - self._fed >= self._interval:
            self._fed = now
            self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Say that the loop ends on purpose."""
        self._send(f"STOPPING=1\nSTATUS={status}")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode(), self._address)
        except OSError:
            pass  # a manager that does not listen must not stop the classification; its watchdog will tell


def watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return the watchdog's time, 0 where there is none for this process."""
    process = environment.get(WATCHDOG_PROCESS)
    if process is not None and process != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environment.get(WATCHDOG, "0"))) / 1e6
    except ValueError:
        return 0.0
