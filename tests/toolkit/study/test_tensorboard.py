"""TensorBoard files: what is in them, and the hint where TensorBoard is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.study import tensorboard

ROWS = [
    {"epoch": 1, "loss": 2.0, "validation_accuracy": None},
    {"epoch": 2, "loss": 0.5, "validation_accuracy": 0.75},
]


def test_scalars_by_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        tensorboard.write_events(tmp_path, ROWS)
    assert len(list(tmp_path.iterdir())) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("validation_accuracy")] == [(2, 0.75)]


def test_missing_tensorboard_is_one_line(roadworthy: Roadworthy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "pip install 'roadworthy[tensorboard]'" in one_line(roadworthy("study", "rendered", "--tensorboard"))
