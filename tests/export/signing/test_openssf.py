"""docs/trust.md's commands of OpenSSF's model_signing, run as they stand there beside roadworthy's own signatures.

The tool has an environment of its own (`pip install model-signing pyopenssl`), so it is looked for on the PATH.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.errors import BundleError, TrustError
from edge_runtime.trust.opening import open_with_root
from tests.edge_runtime.tiny_bundle import tiny_network
from tests.edge_runtime.trust.publisher import Publisher, golden_bundle

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "trust.md").read_text(encoding="utf-8")
BUNDLE = "bundles/natural"


def commands() -> list[list[str]]:
    """Return the openssl and model_signing commands, in order."""
    found = re.findall(r"^(?:openssl|model_signing) .*$", DOCUMENT, re.MULTILINE)
    return [shlex.split(line) for line in found]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_document_signs_and_verifies() -> None:
    assert [command[:2] for command in commands()] == [
        ["openssl", "ecparam"],
        ["openssl", "ec"],
        ["model_signing", "sign"],
        ["model_signing", "verify"],
    ]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    publisher = Publisher(tmp_path / "keys")
    (tmp_path / "bundles").mkdir()
    publisher.sign(golden_bundle(tmp_path / BUNDLE, tiny_network()))
    return publisher


def test_both_signatures_hold_and_both_notice_a_change(publisher: Publisher, tmp_path: Path) -> None:
    if shutil.which("model_signing") is None or shutil.which("openssl") is None:
        pytest.skip("model_signing or openssl is not on the PATH")
    for command in commands():
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert open_with_root(tmp_path / BUNDLE, publisher.root())[1].version == 1
    (tmp_path / BUNDLE / "metadata" / "targets.json").write_bytes(b"{}")
    assert run(commands()[-1], tmp_path).returncode != 0
    with pytest.raises(TrustError):
        open_with_root(tmp_path / BUNDLE, publisher.root())


def test_a_signature_inside_the_bundle_is_an_extra_file(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / BUNDLE / "model.sig").write_text("{}")
    with pytest.raises(BundleError, match=r"model\.sig"):
        open_with_root(tmp_path / BUNDLE, publisher.root())
