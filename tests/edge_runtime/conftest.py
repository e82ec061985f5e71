"""Fixtures of the device runtime's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle, open_bundle
from tests.edge_runtime.tiny_bundle import TinyNetwork, tiny_files, tiny_network, write_tiny_bundle


@pytest.fixture(scope="session")
def network() -> TinyNetwork:
    return tiny_network()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    """The bundle of the hand-differentiated network; read only."""
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tiny_files(network)))


@pytest.fixture
def tiny_folder(tmp_path: Path, network: TinyNetwork) -> Path:
    """A copy of it to damage."""
    return write_tiny_bundle(tmp_path / "bundle", tiny_files(network))
