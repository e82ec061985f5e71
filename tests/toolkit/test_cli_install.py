"""Install, list and roll back by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.trust.store import VARIABLE
from tests.edge_runtime.tiny_bundle import tiny_network
from tests.edge_runtime.trust.publisher import Publisher, golden_bundle
from tests.toolkit.conftest import Roadworthy, one_line


def test_install_list_and_rollback(roadworthy: Roadworthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, places = golden_bundle(tmp_path / "bundle", tiny_network()), tmp_path / "places"
    publisher = Publisher(tmp_path / "keys")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trust"))
    roadworthy("trust", "install", publisher.root())
    assert "is not signed" in one_line(roadworthy("install", bundle, "--to", places))
    for version in (1, 2):
        publisher.sign(bundle)
        code, out, _ = roadworthy("install", bundle, "--to", places, "--json")
        assert (code, json.loads(out)["version"]) == (0, version)
    code, out, _ = roadworthy("install", "--list", "--to", places, "--json")
    assert [row["role"] for row in json.loads(out)] == ["previous", "current"]
    assert [row["problem"] for row in json.loads(out)] == [None, None]
    code, out, _ = roadworthy("install", "--rollback", "--to", places)
    assert (code, "version 1" in out) == (0, True)
    assert "classify" not in out
    code, out, _ = roadworthy("install", "--list", "--to", places)
    assert out.startswith("current   000001-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of: a bundle to install, --list, --rollback"),
        (["/nowhere", "--list"], "give one of"),
        (["/nowhere"], "/nowhere is not a bundle folder"),
        (["--rollback"], "keeps no bundle to go back to"),
        (["/nowhere", "--memory-mib", "1"], "is not a bundle folder"),
    ],
)
def test_what_is_refused(
    roadworthy: Roadworthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("edge_runtime.trust.store.SYSTEM", tmp_path / "system")
    assert message in one_line(roadworthy("install", *arguments, "--to", tmp_path / "places"))


def test_nothing_installed(roadworthy: Roadworthy, tmp_path: Path) -> None:
    assert "no bundle is installed" in roadworthy("install", "--list", "--to", tmp_path / "places")[1]
