"""Private keys are encrypted, readable by their owner alone, and never overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_runtime.errors import TrustError
from export.signing import KeyFolder
from tests.edge_runtime.trust.publisher import Publisher


def private_keys(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pem"))


def test_keys_are_encrypted_and_private(publisher: Publisher) -> None:
    keys = private_keys(publisher.folder)
    assert [key.name.partition("-")[0] for key in keys] == ["root", "targets"]
    for key in keys:
        assert key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_new_keys_have_mode_0600(publisher: Publisher) -> None:
    publisher.rotate("targets")
    newest = max(private_keys(publisher.folder), key=lambda path: path.stat().st_mtime_ns)
    assert newest.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("passphrase", ["", "wrong horse battery"])
def test_a_wrong_passphrase(publisher: Publisher, passphrase: str) -> None:
    keys = KeyFolder(publisher.folder, passphrase)
    with pytest.raises(TrustError, match=r"does not open .* check the passphrase"):
        keys.signers(keys.root(), "targets")


def test_a_short_passphrase(publisher: Publisher) -> None:
    with pytest.raises(TrustError, match="shorter than 8 bytes"):
        KeyFolder(publisher.folder, "short").create_key("root")


def test_a_key_of_another_pair(publisher: Publisher, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    (mine,) = publisher.folder.glob("targets-*.pem")
    (theirs,) = stranger.folder.glob("targets-*.pem")
    shutil.copy(theirs, mine)
    with pytest.raises(TrustError, match="does not match"):
        publisher.keys.signers(publisher.keys.root(), "targets")


def test_missing_keys_are_named(publisher: Publisher) -> None:
    (key,) = publisher.folder.glob("targets-*.pem")
    key.unlink()
    with pytest.raises(TrustError, match=f"holds 0 of the 1 targets keys .* bring {key.name} there"):
        publisher.keys.signers(publisher.keys.root(), "targets")


def test_a_broken_line_of_roots(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no unbroken line of roots"):
        KeyFolder(tmp_path / "nowhere").roots()
    publisher.rotate("root")
    changed = json.loads(publisher.root(2).read_text())
    changed["signatures"].pop()
    publisher.root(2).write_text(json.dumps(changed, sort_keys=True, separators=(",", ":")))
    with pytest.raises(TrustError, match="valid root signatures"):
        publisher.keys.roots()
    publisher.root(1).unlink()
    with pytest.raises(TrustError, match="no unbroken line of roots"):
        publisher.keys.roots()


def test_roots_are_never_replaced(publisher: Publisher) -> None:
    from edge_runtime.trust.metadata import decode

    metadata = decode(publisher.root().read_bytes(), "root", "root")
    with pytest.raises(TrustError, match="roots are never replaced"):
        publisher.keys.add_root(metadata)


def test_versions_are_remembered(publisher: Publisher) -> None:
    assert publisher.keys.last_version() == 1
    publisher.keys.note_version(7)
    publisher.keys.note_version(3)
    assert publisher.keys.last_version() == 7
    (publisher.folder / "signed.json").write_text("[]")
    with pytest.raises(TrustError, match="pass --version"):
        publisher.keys.last_version()
