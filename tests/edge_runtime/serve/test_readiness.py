"""Ready means: a fresh status of a running loop whose frames flow; anything else has a reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.live import STATUS, LiveWriter
from edge_runtime.serve.readiness import look
from tests.edge_runtime.live_status import running

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC


def test_a_running_loop_is_ready(tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running())
    reading = look(tmp_path)
    assert (reading.fresh, reading.obstacle) == (True, None)
    assert reading.status is not None


@pytest.mark.parametrize(
    ("changes", "fresh", "obstacle"),
    [
        ({"state": "starting"}, True, "the model is being loaded"),
        (
            {"state": "waiting", "message": "/dev/video0 is gone"},
            True,
            "the vehicle loop is waiting: /dev/video0 is gone",
        ),
        ({"state": "waiting"}, True, "the vehicle loop is waiting"),
        ({"state": "stopped"}, True, "the vehicle loop has stopped"),
        ({"last_frame_wall": None}, True, "no frame has come from the source yet"),
        (
            {"written_wall": NOON + 60, "last_frame_wall": NOON},
            True,
            "no frame has come from the source since 2026-11-21 12:00:00 UTC",
        ),
        (
            {"written_wall": NOON, "boot_monotonic": time.monotonic() - 3600},
            False,
            "the vehicle loop has written nothing since 2026-11-21 12:00:00 UTC; is its process still there?",
        ),
        (
            {"written_wall": NOON, "boot_monotonic": time.monotonic() + 3600},
            False,
            "the vehicle loop has written nothing since 2026-11-21 12:00:00 UTC; is its process still there?",
        ),
        (
            {"written_wall": 1e300, "boot_monotonic": 0.0},
            False,
            "the vehicle loop has written nothing since an impossible time; is its process still there?",
        ),
        (
            {"state": "stopped", "message": "SIGTERM", "boot_monotonic": 0.0},
            False,
            "the vehicle loop has stopped: SIGTERM",
        ),
    ],
)
def test_what_is_not_ready_says_why(changes: dict[str, Any], fresh: bool, obstacle: str, tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running(**changes))
    reading = look(tmp_path)
    assert (reading.fresh, reading.obstacle) == (fresh, obstacle)


def test_no_loop(tmp_path: Path) -> None:
    reading = look(tmp_path)
    assert reading.status is None
    assert reading.obstacle == f"no vehicle loop writes to {tmp_path}; start one, or name its live folder"


def test_a_foreign_status_is_an_obstacle(tmp_path: Path) -> None:
    (tmp_path / STATUS).write_text("{}")
    reading = look(tmp_path)
    assert reading.status is None
    assert reading.obstacle is not None and "written by another version of roadworthy" in reading.obstacle
