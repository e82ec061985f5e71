"""Run the device's commands as the vehicle does: in a process of their own that cannot import torch or onnx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import RoadworthyError

# What a device install does not bring, and so must not be needed there.
ABSENT = ("captum", "jinja2", "matplotlib", "onnx", "onnxscript", "safetensors", "scipy", "torch", "torchvision")

# Runs before anything else in the child. A module that is only hidden would still be found by its spec, so the search
# itself fails, with the error that a missing module gives.
BOOTSTRAP = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from toolkit.cli import main
main()
"""
INSTALLED = "from toolkit.cli import main; main()"


def run_on_device(arguments: Sequence[str | Path], python: Path | None = None) -> str:
    """Run ``roadworthy`` with ``arguments`` in a device process and return what it printed.

    ``python`` is the interpreter of a device install; by default this one runs with the desktop's libraries kept out.
    Raises RoadworthyError with the child's own line when it fails.
    """
    command = [str(python or sys.executable), "-c", INSTALLED if python else BOOTSTRAP, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise RoadworthyError(f"the device process failed on 'roadworthy {arguments[0]}': {said[-1]}")
    return finished.stdout
