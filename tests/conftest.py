"""Fixtures and marker handling for the whole suite."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports torch. Where tests share their cores, OpenMP threads that wait for one another spin: training
# a small network was seen to take ten times as long with two threads as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def no_gpu() -> str | None:
    """Return why CUDA tests cannot run, or None. Asking the driver's tool is cheaper than importing torch."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "no NVIDIA driver on this machine"
    return None if found.stdout.startswith("GPU ") else "no CUDA device on this machine"


def no_tensorrt() -> str | None:
    """Return why TensorRT tests cannot run, or None."""
    return None if importlib.util.find_spec("tensorrt") else "tensorrt is not installed"


OBSTACLES: dict[str, Callable[[], str | None]] = {"gpu": no_gpu, "tensorrt": no_tensorrt}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    obstacles = {"slow": None if config.getoption("--slow") else "slow; run with --slow"}
    for marker, obstacle in OBSTACLES.items():
        if any(item.get_closest_marker(marker) for item in items):
            obstacles[marker] = obstacle()
    for item in items:
        for marker, reason in obstacles.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets: ``$ROADWORTHY_DATA``, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("ROADWORTHY_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set ROADWORTHY_DATA)")
    return folder
