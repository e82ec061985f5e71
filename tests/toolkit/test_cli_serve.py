"""``roadworthy serve``: what it refuses is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.serve.server import TOKEN_VARIABLE
from tests.toolkit.conftest import Roadworthy, one_line

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


def test_another_address_needs_a_token(roadworthy: Roadworthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    refused = one_line(roadworthy("serve", tmp_path, "--host", "0.0.0.0", "--port", 0))
    assert refused.endswith("pass --token-file, or set ROADWORTHY_TOKEN\n")


def test_a_short_token(roadworthy: Roadworthy, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    refused = one_line(roadworthy("serve", tmp_path, "--token-file", tmp_path / "token"))
    assert "has 6 characters, at least 16 are needed" in refused
    assert "secret" not in refused


def test_bad_options(roadworthy: Roadworthy, tmp_path: Path) -> None:
    assert "Invalid value for '--port'" in one_line(roadworthy("serve", "--port", 99999))
    (tmp_path / "file").write_text("")
    assert "is a file" in one_line(roadworthy("serve", tmp_path / "file"))
    assert "both --certificate and --key" in one_line(roadworthy("serve", "--port", 0, "--key", tmp_path / "file"))


def test_the_hint_where_the_extra_is_missing(roadworthy: Roadworthy, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs starlette, which is not installed here: pip install 'roadworthy[serve]'" in one_line(
        roadworthy("serve")
    )
