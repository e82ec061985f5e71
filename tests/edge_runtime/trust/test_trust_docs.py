"""docs/trust.md says what the code does, and its commands run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edge_runtime.trust import metadata, store, verification
from edge_runtime.trust.store import VARIABLE
from export.signing.bundles import BUNDLE_DAYS
from tests.edge_runtime.tiny_bundle import TinyNetwork
from tests.edge_runtime.trust.publisher import PASSPHRASE, golden_bundle
from toolkit.cli import main

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "trust.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("roadworthy ")]


def test_the_commands_run(tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundles").mkdir()
    golden_bundle(tmp_path / "bundles" / "natural", network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "trust")
    monkeypatch.setenv("ROADWORTHY_PASSPHRASE", PASSPHRASE)
    ran = commands()
    assert len(ran) >= 9
    for arguments in ran:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code, arguments


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"by default {BUNDLE_DAYS}" in DOCUMENT
    assert (
        f"over {metadata.MAX_BYTES['root'] >> 10} KiB\n  (root) or {metadata.MAX_BYTES['targets'] >> 20} MiB"
        in DOCUMENT
    )
    assert f"more than {verification.MAX_ROOTS} roots" in DOCUMENT
    assert VARIABLE in DOCUMENT
    assert str(store.SYSTEM) in DOCUMENT
