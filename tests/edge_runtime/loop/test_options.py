"""Options that cannot be are refused before anything is opened; a summary survives being written and read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_runtime.errors import InputError
from edge_runtime.live import Counts
from edge_runtime.loop import EngineOptions, LadderOptions, LoopOptions, LoopSummary, ScheduleOptions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "depth is 3; the queue holds 1 or 2 frames"),
        ({"frames": 0}, "frames is 0; give a number above 0"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"engine": EngineOptions(timeout=0)}, "timeout is 0"),
        ({"ladder": LadderOptions(target_ms=0)}, "target-ms is 0"),
        ({"schedule": ScheduleOptions(every=0)}, "every is 0"),
    ],
)
def test_impossible_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        LoopOptions(**change).check()
    assert str(caught.value).startswith(message)


def test_default_options_are_possible() -> None:
    LoopOptions().check()


def test_a_summary_is_json() -> None:
    summary = LoopSummary(
        bundle="tiny",
        digest="ab",
        source="arrays",
        ended="the source ended",
        counts=Counts(produced=3, processed=2, failed=1),
        images=2,
        seconds=1.5,
        audits={"vg": 1},
        skipped={},
        events={"started": 1},
        latency={},
        drift={},
        step="nothing left out",
        rebuilt=0,
        log={"path": "log", "lost": 0, "error": None},
    )
    assert msgspec.json.decode(msgspec.json.encode(summary), type=LoopSummary) == summary
