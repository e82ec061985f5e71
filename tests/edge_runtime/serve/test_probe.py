"""The health check of a container, against a real server and real live folders."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.live import LiveWriter
from edge_runtime.serve import probe
from edge_runtime.serve.access import Token
from edge_runtime.serve.app import build_app
from edge_runtime.serve.server import listen, web_server
from tests.edge_runtime.live_status import running

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "live"


def serving(folder: Path, **settings: object) -> Iterator[int]:
    """Serve in a thread, with a token, and yield the port."""
    with listen("127.0.0.1", 0) as listening:
        server = web_server(build_app(folder, Token("0123456789abcdef")), **settings)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    yield from serving(folder)


def test_a_server_is_healthy_without_its_token(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["--port", str(port)]) == 0
    assert capsys.readouterr().out == "healthy\n"


def test_https(folder: Path, tmp_path: Path) -> None:
    """A certificate of the vehicle's own name, which 127.0.0.1 is not."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=vehicle-7", "-days", "1"]
    made = subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl is not here to make a certificate")
    for port in serving(folder, ssl_certfile=certificate, ssl_keyfile=key):
        assert probe.ask(port, secure=True) is None
        assert probe.ask(port) is not None


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    assert probe.main(["--port", str(port)]) == 1
    assert capsys.readouterr().out.startswith(f"no answer on port {port}: ")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0\r\n", b""]
)
def test_somebody_else_answers(answer: bytes) -> None:
    with listen("127.0.0.1", 0) as listening:

        def once() -> None:
            visitor, _ = listening.accept()
            with visitor:
                visitor.recv(1000)
                visitor.sendall(answer)

        threading.Thread(target=once, daemon=True).start()
        assert probe.ask(listening.getsockname()[1]) is not None


def test_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        obstacle = probe.ask(silent.getsockname()[1])
    assert obstacle is not None and "timed out" in obstacle


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, "healthy"),
        ({"state": "starting"}, 1, "the model is being loaded"),
        ({"state": "stopped", "message": "SIGTERM"}, 1, "the vehicle loop has stopped"),
        ({"last_frame_wall": 1.0}, 1, "no frame has come"),
        ({"boot_monotonic": 0.0}, 1, "the vehicle loop has written nothing since"),
    ],
)
def test_the_loop_by_its_live_folder(
    folder: Path, changes: dict[str, object], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    LiveWriter(folder).write(running(**changes))
    assert probe.main(["--loop", str(folder)]) == code
    assert capsys.readouterr().out.startswith(said)


def test_no_loop_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert probe.main(["--loop"]) == 1
    LiveWriter(folder / "roadworthy").write(running())
    assert probe.main(["--loop"]) == 0
