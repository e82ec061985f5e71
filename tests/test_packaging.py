"""The wheel holds what a device and a desktop need, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Sources of what is compiled at installation, and the outcome of an earlier one.
COMPILED = {".c", ".so"}
PROJECT_FILES = {"pyproject.toml", "setup.py", "README.md", "LICENSE"}
PACKAGES = ("toolkit", "calibration", "export", "edge_runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from copies of the tracked sources, so that no build folder is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for path in REPOSITORY.iterdir():
        if path.name in PROJECT_FILES:
            shutil.copy(path, source)
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    out = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(out), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("roadworthy-*.whl")
    return zipfile.ZipFile(path)


def test_every_module_and_data_file_is_inside(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in COMPILED
    }
    assert expected <= names, sorted(expected - names)


def test_nothing_else_is_inside(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)
