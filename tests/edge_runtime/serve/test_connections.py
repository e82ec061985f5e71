"""Connections that ask for nothing, half of something, or go away in the middle."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_runtime.serve.visitor import TOKEN, Visitor, serving

pytest.importorskip("uvicorn")
from edge_runtime.serve import connections, server

HALF = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\ntoken="
ROOM = 8


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", ROOM)
    monkeypatch.setattr(connections, "YIELDING_SECONDS", 0.2)
    with serving(tmp_path, TOKEN) as found:
        yield found


def connected(visitor: Visitor, stack: contextlib.ExitStack, sent: bytes = b"") -> socket.socket:
    made = stack.enter_context(socket.create_connection(("127.0.0.1", visitor.port), timeout=30))
    made.sendall(sent)
    return made


@pytest.mark.parametrize("sent", [b"", b"GET /status HTT"])
def test_silent_connections_give_way(sent: bytes, visitor: Visitor) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3 * ROOM):
            connected(visitor, stack, sent)
        time.sleep(0.4)
        assert [visitor.get("/healthz").status for _ in range(5)] == [200] * 5


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HTT", HALF, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_a_connection_that_asks_for_nothing_more_is_closed(
    sent: bytes, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        silent = connected(visitor, stack, sent)
        with contextlib.suppress(ConnectionResetError):
            while silent.recv(4096):
                pass
    assert visitor.get("/healthz").status == 200


def test_who_goes_on_asking_is_not_closed(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.5)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=30)) as asking:
        asking.connect()
        used = asking.sock
        for _ in range(12):
            asking.request("GET", "/healthz")
            assert asking.getresponse().read() == b"the server answers\n"
            assert asking.sock is used
            time.sleep(0.1)


def test_a_login_that_breaks_off_leaves_no_traceback(visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can do that, as often as they like, and the journal is for other things."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connected(visitor, stack, HALF)
    time.sleep(0.3)
    assert visitor.get("/healthz").status == 200
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
