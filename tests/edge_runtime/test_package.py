"""Importing the device runtime costs next to nothing; its public names load what they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

REPOSITORY = Path(__file__).resolve().parents[2]


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_no_library() -> None:
    loaded = run("import sys, edge_runtime; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert not {"numpy", "onnxruntime", "PIL", "apsw", "msgspec", "scipy", "cv2", "click", "http"} & set(loaded)


def test_import_takes_less_than_a_quarter_second() -> None:
    script = "import time; t = time.process_time(); import edge_runtime; print(time.process_time() - t)"
    assert min(float(run(script)) for _ in range(3)) < 0.25


@pytest.mark.parametrize("name", edge_runtime.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(edge_runtime, name) is not None
    assert name in dir(edge_runtime)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Clasifier'"):
        edge_runtime.Clasifier  # noqa: B018
