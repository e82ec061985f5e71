"""The device process runs the command line and can import nothing of the desktop."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_runtime.errors import RoadworthyError
from toolkit.device_process import ABSENT, BOOTSTRAP, run_on_device


def test_runs_the_command_line() -> None:
    assert "Usage: roadworthy verify" in run_on_device(["verify", "--help"])


@pytest.mark.parametrize("module", ["torch", "onnx", "onnx.helper"])
def test_desktop_libraries_cannot_be_imported(module: str) -> None:
    script = BOOTSTRAP.replace("from toolkit.cli import main\nmain()", f"import {module}")
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert f"ModuleNotFoundError: No module named '{module.split('.')[0]}" in finished.stderr
    assert module.split(".")[0] in ABSENT


def test_failure_carries_the_childs_own_line() -> None:
    with pytest.raises(RoadworthyError, match=r"failed on .roadworthy verify.: .*not a bundle folder"):
        run_on_device(["verify", "/nowhere"])
