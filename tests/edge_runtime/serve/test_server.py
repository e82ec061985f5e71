"""The process: addresses, tokens, HTTPS, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.live import LiveWriter
from edge_runtime.serve.server import TOKEN_VARIABLE, ServeOptions, address, is_loopback, listen, read_token, serve
from tests.edge_runtime.live_status import running
from tests.edge_runtime.serve.visitor import Visitor

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
REPOSITORY = Path(__file__).resolve().parents[3]
SECRET = "0123456789abcdef0123"


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("127.0.0.2", True)]
)
def test_which_addresses_are_this_machines_alone(host: str, alone: bool) -> None:
    with listen(host, 0) as listening:
        assert is_loopback(listening) == alone


def test_ipv6() -> None:
    try:
        listening = listen("::1", 0)
    except InputError:
        pytest.skip("this machine has no IPv6")
    with listening:
        assert is_loopback(listening)
        assert address(listening, False) == f"http://[::1]:{listening.getsockname()[1]}/"


def test_a_taken_port() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1 port {port}: .*choose another"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "198.51.100.1", "a" * 300])
def test_an_address_of_nobody(host: str) -> None:
    with pytest.raises(InputError, match="choose another --host or --port"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_token_no_other_address(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reached from outside; put a token into a file|cannot listen on ::"):
        serve(tmp_path, ServeOptions(host=host, port=0), lambda address: pytest.fail("it serves"))


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert read_token(None) is None
    found = read_token(file)
    assert found is not None and found.opens(SECRET)
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET[::-1])
    found = read_token(None)
    assert found is not None and found.opens(SECRET[::-1]) and not found.opens(SECRET)
    found = read_token(file)
    assert found is not None and found.opens(SECRET), "the file goes first"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 characters, at least 16"),
        (b"short", "has 5 characters, at least 16"),
        ("ä".encode() * 20, "characters that a header cannot"),
        (b"0123456789\n0123456789", "characters that a header cannot"),
        (b"\xff" * 20, "is no text"),
    ],
)
def test_a_token_that_is_none(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_token(file)


def test_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; give a file that holds the token"):
        read_token(tmp_path / "none")


def test_a_short_token_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(InputError, match=f"token of {TOKEN_VARIABLE} has 5 characters"):
        read_token(None)


def test_https_needs_two_good_files(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("no certificate")
    with pytest.raises(InputError, match="both --certificate and --key"):
        serve(tmp_path, ServeOptions(port=0, certificate=tmp_path / "cert"), print)
    with pytest.raises(InputError, match="are no PEM certificate and key"):
        serve(tmp_path, ServeOptions(port=0, certificate=tmp_path / "cert", key=tmp_path / "cert"), print)


# --- the command ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def command(live: Path) -> Iterator[tuple[subprocess.Popen[str], Visitor]]:
    """Run the command on any free port."""
    arguments = [sys.executable, "-c", "from toolkit.cli import main; main()", "serve", str(live), "--port", "0"]
    started = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    try:
        line = started.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (line, started.poll())
        yield started, Visitor(int(line.split("/")[2].rpartition(":")[2]))
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Visitor]]:
    live = tmp_path_factory.mktemp("live")
    LiveWriter(live).write(running())
    with command(live) as found:
        yield found


def test_ctrl_c_is_how_it_ends(tmp_path: Path) -> None:
    with command(tmp_path) as (started, visitor):
        assert visitor.get("/readyz").status == 503
        started.send_signal(signal.SIGINT)
        assert (started.communicate(timeout=60), started.returncode) == (("", ""), 0)


def test_the_command_serves_and_steps_back_for_classification(process: tuple[subprocess.Popen[str], Visitor]) -> None:
    started, visitor = process
    assert visitor.get("/status").json["status"]["bundle"] == "natural"
    assert os.getpriority(os.PRIO_PROCESS, started.pid) > os.getpriority(os.PRIO_PROCESS, 0)


def test_it_never_loads_the_model_runtime(process: tuple[subprocess.Popen[str], Visitor]) -> None:
    maps = Path(f"/proc/{process[0].pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc on this machine")
    assert "onnxruntime" not in maps.read_text()


def test_sigterm_ends_it_at_once_and_silently(process: tuple[subprocess.Popen[str], Visitor]) -> None:
    started, visitor = process
    with socket.create_connection(("127.0.0.1", visitor.port)) as idle:
        idle.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n")  # a visitor who never finishes
        started.send_signal(signal.SIGTERM)
        out, error = started.communicate(timeout=60)
    assert (out, error) == ("", "")
    assert started.returncode in (0, -signal.SIGTERM)
