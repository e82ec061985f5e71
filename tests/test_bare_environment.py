"""The device install, for real: an environment without torch and onnx runs the runtime and the command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


def device(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the device environment's Python."""
    python = Path(os.environ.get("ROADWORTHY_EDGE_PYTHON") or REPOSITORY / ".venv-edge" / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no device environment at {python}; `make .venv-edge/installed` makes it")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def roadworthy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return device("-c", "from toolkit.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network's bundle with an audit set."""
    from edge_runtime.bundle import AuditSet
    from edge_runtime.manifest import InputSpec
    from export.bundle import Contents, write_bundle
    from export.parity import random_images
    from export.to_onnx import to_onnx
    from toolkit import models

    generator = np.random.default_rng(0)
    contents = Contents(
        name="tiny",
        input=InputSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        labels=("a", "b", "c", "d"),
        golden_images=random_images(3, (32, 32)),
        audit_set=AuditSet(generator.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), np.arange(8) % 4),
    )
    classifier = to_onnx(models.build("vgg_small", 4, width=0.25).eval(), input_size=(32, 32))
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", classifier, contents)


def test_neither_torch_nor_onnx_is_there() -> None:
    found = device("-c", "import importlib.util as u; print([m for m in ('torch', 'onnx', 'scipy') if u.find_spec(m)])")
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_every_module_of_the_runtime_imports() -> None:
    names = sorted(
        path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in (REPOSITORY / "edge_runtime").rglob("*.py")
    )
    assert "edge_runtime.classifier" in names
    names.remove("edge_runtime.serve.connections")  # a class on top of uvicorn's, which comes with the extra `serve`
    script = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(len(sys.argv) - 1)"
    )
    finished = device("-c", script, *names)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(len(names))


def test_help() -> None:
    finished = roadworthy("--help")
    assert finished.returncode == 0, finished.stderr
    assert "verify" in finished.stdout


def test_desktop_command_gives_a_hint() -> None:
    finished = roadworthy("train", "--help")
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [
        "roadworthy: error: 'roadworthy train' needs torch, which is not installed here: "
        "pip install 'roadworthy[desktop]'"
    ]


def test_verify(bundle: Path) -> None:
    finished = roadworthy("verify", str(bundle), "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["same_class"] == 3


def test_audit(bundle: Path, tmp_path: Path) -> None:
    finished = roadworthy("audit", str(bundle), "--out", str(tmp_path / "audit"))
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert result["images"] == 8


def test_the_vehicle_loop_replays_a_folder(bundle: Path, tmp_path: Path) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(signs / f"{number}.png")
    arguments = ["--source", str(signs), "--log", str(tmp_path / "audit.db"), "--no-live", "--every", "4", "--json"]
    finished = roadworthy("audit", str(bundle), *arguments)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    assert summary["counts"]["processed"] == 12
    assert summary["audits"]["vg"] == 3
    assert roadworthy("log", "verify", str(tmp_path / "audit.db")).returncode == 0
