"""A live status as a running loop writes it, for the tests of those who read it."""

from __future__ import annotations

import time
from typing import Any

from edge_runtime.live import Counts, LiveStatus, Shown


def running(**changes: Any) -> LiveStatus:
    """Return the status of a healthy loop, written just now; ``changes`` replace fields."""
    wall = changes.get("written_wall", time.time())
    fields: dict[str, Any] = {
        "written_wall": wall,
        "boot_monotonic": time.monotonic(),
        "started_wall": wall - 60,
        "process": 4242,
        "state": "running",
        "bundle": "natural",
        "digest": "ab" * 32,
        "source": "camera:0",
        "provider": "cpu",
        "counts": Counts(produced=100, processed=90, dropped=6, failed=3, waiting=1),
        "frames_per_second": 29.5,
        "last_frame_wall": wall,
        "shown": Shown(frame_id="camera0/100", label="stop", prediction=14, probability=0.97),
    }
    return LiveStatus(**{**fields, **changes})
