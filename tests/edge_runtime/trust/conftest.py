"""Fixtures of the tests of trust."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_runtime.trust.store import VARIABLE
from tests.edge_runtime.tiny_bundle import TinyNetwork
from tests.edge_runtime.trust.publisher import Publisher, golden_bundle


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has installed must not decide tests."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> tuple[Path, Path]:
    """A publisher's folder and a bundle that it signed as version 1; read only."""
    folder = tmp_path_factory.mktemp("published")
    publisher = Publisher(folder / "keys")
    publisher.sign(golden_bundle(folder / "bundle", network))
    return folder / "keys", folder / "bundle"


@pytest.fixture
def publisher(published: tuple[Path, Path], tmp_path: Path) -> Publisher:
    """A copy of the publisher to go on with."""
    shutil.copytree(published[0], tmp_path / "keys")
    made = Publisher.__new__(Publisher)
    made.folder = tmp_path / "keys"
    return made


@pytest.fixture
def bundle(published: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the signed bundle to damage."""
    return Path(shutil.copytree(published[1], tmp_path / "bundle"))
