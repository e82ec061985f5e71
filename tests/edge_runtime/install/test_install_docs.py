"""docs/install.md says what the code does, and its commands run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.install import STEPS, Limits
from edge_runtime.install.places import SYSTEM
from edge_runtime.self_test import EXPLAINED
from tests.edge_runtime.tiny_bundle import TinyNetwork
from tests.edge_runtime.trust.publisher import golden_bundle
from toolkit.cli import main

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "install.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("roadworthy ")]


def test_the_commands_run(tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bundles", "frames"):
        (tmp_path / name).mkdir()
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "frames" / "sign.png")
    monkeypatch.setattr("edge_runtime.trust.store.SYSTEM", tmp_path / "system")
    monkeypatch.chdir(tmp_path)
    *before, back = commands()
    assert "--rollback" in back
    golden_bundle(tmp_path / "bundles" / "natural", network, name="first")
    run(before[0])
    golden_bundle(tmp_path / "again", network, name="second").rename(tmp_path / "second")
    run(["install", "second", "--to", "vehicle"])
    for arguments in [*before[1:], back]:
        run(arguments)


def run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code, arguments


def test_the_steps_and_numbers_are_those_of_the_code() -> None:
    assert re.findall(r"^\| (\w+) \|", DOCUMENT, re.MULTILINE)[1:] == list(STEPS)
    limits = Limits()
    assert f"{limits.memory_bytes >> 30} GiB of memory" in DOCUMENT
    assert f"{limits.cpu_seconds} s of processor time" in DOCUMENT
    assert f"{limits.seconds:g} s in all" in DOCUMENT
    assert f"the first {EXPLAINED} explained" in DOCUMENT
    assert str(SYSTEM) in DOCUMENT
