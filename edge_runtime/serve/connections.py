"""Connections that ask for nothing: they must not keep the page from those who do.

uvicorn counts every connection and answers 503 beyond its limit, but it waits for a first request without end. A few
dozen silent connections, of a broken proxy or of somebody without the token, would be enough.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS = 20.0  # without a new request a connection is closed; every request of ours takes far less
YIELDING_SECONDS = 1.0  # where there is no room, one that was silent for so long gives way to a new one


class Connection(H11Protocol):
    """One connection; ``quiet_since`` is the event loop's time when its latest request began, or it was made."""

    quiet_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take up a connection, in the place of a silent one where all are taken."""
        super().connection_made(transport)
        self.quiet_since = self.loop.time()
        self._seen: Any = self.cycle
        self._watch = self.loop.call_later(SILENT_SECONDS, self._close_if_silent)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note the time where the data begin a request."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self.quiet_since = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        return cycle is None or cycle.response_complete

    def _close_if_silent(self) -> None:
        if self.cycle is self._seen:
            self.transport.abort()
            return
        self._seen = self.cycle
        self._watch = self.loop.call_later(SILENT_SECONDS, self._close_if_silent)

    def _make_room(self) -> None:
        """End idle connections, those silent for longest first, until another request can be answered."""
        limit = self.limit_concurrency or math.inf
        silent = [each for each in self.connections if isinstance(each, Connection) and each.idle]
        for each in sorted(silent, key=lambda one: one.quiet_since):
            if len(self.connections) < limit or self.loop.time() - each.quiet_since < YIELDING_SECONDS:
                return
            self.connections.discard(each)  # at once: several may come before it is told of its end
            each.transport.abort()
