"""Keys, sign, trust and verify by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.trust.store import VARIABLE
from tests.edge_runtime.tiny_bundle import tiny_network
from tests.edge_runtime.trust.publisher import golden_bundle
from tests.toolkit.conftest import Roadworthy, one_line


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return golden_bundle(tmp_path / "bundle", tiny_network())


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("ROADWORTHY_PASSPHRASE", raising=False)
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    return tmp_path / "passphrase"


def test_from_keys_to_a_verified_bundle(
    roadworthy: Roadworthy, bundle: Path, passphrase: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, root = tmp_path / "keys", tmp_path / "keys" / "1.root.json"
    assert roadworthy("keys", "create", keys, "--root-keys", 2, "--passphrase-file", passphrase)[0] == 0
    assert "is not signed" in one_line(roadworthy("verify", bundle, "--root", root))
    code, out, _ = roadworthy("sign", bundle, "--keys", keys, "--passphrase-file", passphrase)
    assert (code, "version 1, root version 1" in out) == (0, True)
    code, out, _ = roadworthy("verify", bundle, "--root", root)
    assert (code, "signatures: version 1" in out) == (0, True)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trust"))
    assert roadworthy("trust", "install", root)[0] == 0
    assert roadworthy("verify", bundle)[0] == 0
    (bundle / "metadata" / "targets.json").unlink()
    for arguments in (["verify", bundle], ["audit", bundle], ["bench", bundle], ["classify", bundle, passphrase]):
        assert "is not signed" in one_line(roadworthy(*arguments))
    assert "is not signed" in one_line(roadworthy("audit", bundle, "--source", bundle, "--no-live"))


def test_rotation_and_what_is_shown(
    roadworthy: Roadworthy, passphrase: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    monkeypatch.setenv("ROADWORTHY_PASSPHRASE", "correct horse battery")
    roadworthy("keys", "create", keys)
    assert roadworthy("keys", "rotate", keys, "targets")[0] == 0
    code, out, _ = roadworthy("keys", "show", keys)
    assert code == 0
    assert "root version 2" in out
    assert out.count("  here") == 2
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trust"))
    assert roadworthy("trust", "install", keys / "1.root.json", keys / "2.root.json")[0] == 0
    code, out, _ = roadworthy("trust", "show", "--json")
    assert json.loads(out)["root"] == 2
    assert "highest version" in roadworthy("trust", "show")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keys", "create", "KEYS"], "shorter than 8 bytes"),
        (["keys", "create", "KEYS", "--root-keys", "2", "--root-threshold", "3"], "3 of 2 root keys cannot be"),
        (["keys", "rotate", "KEYS", "both"], "role 'both' does not exist"),
        (["keys", "show", "KEYS"], "no unbroken line of roots"),
        (["keys", "create", "KEYS", "--passphrase-file", "/nowhere"], "/nowhere cannot be read"),
        (["sign", "BUNDLE", "--keys", "KEYS"], "no unbroken line of roots"),
        (["trust", "install", "/nowhere/1.root.json"], "cannot be read"),
        (["verify", "BUNDLE", "--root", "/nowhere/1.root.json"], "cannot be read"),
    ],
)
def test_what_is_refused(
    roadworthy: Roadworthy,
    bundle: Path,
    passphrase: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("ROADWORTHY_PASSPHRASE", "short")
    names = {"KEYS": str(tmp_path / "keys"), "BUNDLE": str(bundle)}
    if arguments[0] == "trust":
        monkeypatch.setenv(VARIABLE, str(tmp_path / "trust"))
    assert message in one_line(roadworthy(*(names.get(each, each) for each in arguments)))
