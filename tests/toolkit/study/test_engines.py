"""Choosing where cells are made: what is refused, before anything is read, and each in one line."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.study import engines, ray_cluster
from toolkit.study.engines import Workers

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "rya"], "unknown engine 'rya'; nearest: ray"),
        (["--address", "host:6379"], "--address and --cells-per-gpu are for clusters; add --engine ray"),
        (["--cells-per-gpu", "2"], "--address and --cells-per-gpu are for clusters"),
        (["--cells-per-gpu", "0"], "--cells-per-gpu 0 must be at least 1"),
        (["--threads", "0"], "--threads 0 must be at least 1"),
    ],
)
def test_options_that_do_not_fit(roadworthy: Roadworthy, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in one_line(roadworthy("study", "rendered", "--out", tmp_path / "out", *arguments))
    assert not list(tmp_path.iterdir())


def test_local_studies_need_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert engines.chosen("local", Workers()) is engines.ENGINES["local"]
    with pytest.raises(InputError, match=r"--engine ray needs ray, .* pip install 'roadworthy\[ray\]'"):
        engines.chosen("ray", Workers("host:6379"))


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "pass --address HOST:PORT or set RAY_ADDRESS"),
        ("cluster", "address 'cluster' is not HOST:PORT"),
        ("host:99999", "is not HOST:PORT"),
        ("ray://", "is not HOST:PORT"),
    ],
)
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, address: str | None, message: str) -> None:
    monkeypatch.delenv(engines.ADDRESS, raising=False)
    with pytest.raises(InputError, match=message):
        engines.chosen("ray", Workers(address))


@needs_ray
def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ray_cluster, "check", asked.append)
    monkeypatch.setenv(engines.ADDRESS, "head:6379")
    engines.chosen("ray", Workers())
    engines.chosen("ray", Workers("other:6379"))
    assert asked == ["head:6379", "other:6379"]


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"nothing answers at 127.0.0.1:{port} \(Connection refused\)"):
            ray_cluster.check(f"127.0.0.1:{port}")


@needs_ray
def test_an_address_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match=f"no Ray cluster answered at 127.0.0.1:{port} within 1 s"):
            ray_cluster.check(f"127.0.0.1:{port}")


def test_the_reason_is_the_exceptions_line() -> None:
    said = "Traceback (most recent call last):\n  File\nConnectionError: no token\n(raylet) good bye\n"
    assert ray_cluster._reason(said) == "ConnectionError: no token"
    assert ray_cluster._reason("\n") == "it ended without a word"


@needs_ray
def test_nobody_at_work_ends_nothing() -> None:
    """As where the last cells are left out because their parent failed."""
    from toolkit.study.ray_engine import _Crew

    assert list(_Crew(task=None, order=None, datasets={}, view=None).endings()) == []  # type: ignore[arg-type]
