"""A server in this process, and a visitor who speaks plain HTTP to it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.serve.access import Token
from edge_runtime.serve.app import build_app
from edge_runtime.serve.server import listen, web_server

TOKEN = Token("a-token-of-the-tests-0123456789")


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Visitor:
    """Sends requests to a server on this machine."""

    port: int

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        """Ask once; underscores in the headers' names become dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        if found.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        return Answer(answer.status, found, content)


@contextlib.contextmanager
def serving(folder: Path, token: Token | None = None, port: int = 0) -> Iterator[Visitor]:
    """Serve a live folder while the block runs."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")

    listening = listen("127.0.0.1", port)
    server = web_server(build_app(folder, token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        yield Visitor(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
