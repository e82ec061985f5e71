"""Imports point one way, and the device package never reaches for the desktop's libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.cli import COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
# Each package may import itself and those to its right.
DIRECTION = ("toolkit", "calibration", "export", "edge_runtime")
# A vehicle has none of these; a lazy import of one would fail there later instead of now.
NEVER_ON_THE_DEVICE = {
    "captum",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxscript",
    "safetensors",
    "scipy",
    "torch",
    "torch_pruning",
    "torchvision",
}


def modules() -> list[Path]:
    return sorted(path for package in DIRECTION for path in (REPOSITORY / package).rglob("*.py"))


def imported_roots(path: Path) -> list[tuple[int, str]]:
    """Return (line, top-level package) of every import in the file, at any depth of nesting."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module.split(".")[0]))
    return found


def offences(forbidden: dict[str, set[str]]) -> list[str]:
    """List the imports that ``forbidden`` (package -> top-level packages it must not import) rules out."""
    return [
        f"{path.relative_to(REPOSITORY)}:{line} imports {root}"
        for path in modules()
        for line, root in imported_roots(path)
        if root in forbidden.get(path.relative_to(REPOSITORY).parts[0], set())
    ]


def test_every_package_is_covered() -> None:
    assert {path.relative_to(REPOSITORY).parts[0] for path in modules()} == set(DIRECTION)


def test_imports_point_one_way() -> None:
    upward = {package: set(DIRECTION[:position]) for position, package in enumerate(DIRECTION)}
    assert offences(upward) == []


def test_edge_runtime_never_imports_desktop_libraries() -> None:
    assert offences({"edge_runtime": NEVER_ON_THE_DEVICE}) == []


def test_torch_stays_in_to_onnx_within_export() -> None:
    torch_users = {
        path.relative_to(REPOSITORY).as_posix()
        for path in modules()
        if path.relative_to(REPOSITORY).parts[0] in ("export", "calibration")
        for _, root in imported_roots(path)
        if root in {"torch", "torchvision"}
    }
    assert torch_users <= {"export/to_onnx.py"}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_neither_torch_nor_onnxruntime(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from toolkit.cli import main\n"
        f"sys.argv = ['roadworthy', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Usage: roadworthy" in finished.stdout
