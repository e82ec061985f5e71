"""The ladder: what drives it down, what lets it back, and that it neither flaps nor skips steps."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from edge_runtime.loop.ladder import STEPS, Ladder, LadderChange, LadderOptions

OPTIONS = LadderOptions(target_ms=50, samples=20, hold_seconds=3, relief_seconds=10, longest_relief_seconds=40)


def drive(ladder: Ladder, start: float, seconds: float, age: float | None) -> list[LadderChange]:
    """Let ten frames a second of the given age pass; return the steps taken."""
    changes = []
    for tick in range(round(10 * seconds)):
        if age is not None:
            ladder.aged(age)
        change = ladder.update(start + tick / 10)
        changes += [change] if change else []
    return changes


def test_the_order_of_what_is_left_out() -> None:
    kinds = ("road", "ig", "sg", "vg", "thumbnails")
    left_out = [{kind for kind in kinds if kind in step.without} for step in STEPS]
    assert left_out == [set(), {"road"}, {"road", "ig", "sg"}, {"road", "ig", "sg", "vg"}, set(kinds)]
    assert not any("classify" in step.without for step in STEPS)


def test_slow_frames_lead_down_step_by_step() -> None:
    ladder = Ladder(OPTIONS)
    changes = drive(ladder, 0, 20, age=80)
    assert [(change.before, change.step) for change in changes] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert changes[0].reason == "p95 of the frames' age is 80.0 ms, the target 50 ms"
    assert ladder.step == len(STEPS) - 1
    assert not ladder.allows("thumbnails")
    assert ladder.allows("classify")


def test_a_short_burst_leads_nowhere() -> None:
    ladder = Ladder(OPTIONS)
    assert drive(ladder, 0, 5, age=20) == []
    assert drive(ladder, 5, 0.8, age=500) == []
    assert drive(ladder, 6, 5, age=20) == []


def test_it_climbs_back_only_after_lasting_relief() -> None:
    ladder = Ladder(OPTIONS)
    assert len(drive(ladder, 0, 7, age=80)) == 2
    assert drive(ladder, 7, 9, age=20) == []
    assert [change.step for change in drive(ladder, 16, 30, age=20)] == [1, 0]


def test_between_relief_and_target_nothing_moves() -> None:
    ladder = Ladder(OPTIONS)
    drive(ladder, 0, 3.5, age=80)
    assert ladder.step == 1
    assert drive(ladder, 3.5, 100, age=45) == []


def test_each_relief_that_came_too_early_doubles_the_wait() -> None:
    """A load that only fits without ROAD: the ladder tries again, at ever longer intervals, and never flaps."""
    ladder = Ladder(OPTIONS)
    taken = []
    for tick in range(6000):
        ladder.aged(80 if ladder.step == 0 else 20)
        change = ladder.update(tick / 10)
        if change:
            taken.append((change.step, tick / 10))
    eased = [time for step, time in taken if step == 0]
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(eased)]
    assert gaps[:2] == pytest.approx([24, 44], abs=3)
    assert gaps[-1] == pytest.approx(44, abs=3)
    assert len(taken) < 40


@pytest.mark.parametrize(
    ("hottest", "throttled", "reason"),
    [(97.0, None, "97 degrees Celsius, the limit is 95"), (60.0, True, "throttled (cpufreq)")],
)
def test_heat_and_throttling_lead_down_and_back(hottest: float, throttled: bool | None, reason: str) -> None:
    ladder = Ladder(OPTIONS)
    ladder.sensed(hottest, throttled, ("cpufreq",) if throttled else ())
    changes = drive(ladder, 0, 4, age=10)
    assert [change.reason for change in changes] == [reason]
    ladder.sensed(92.0, False)
    assert drive(ladder, 10, 30, age=10) == []  # not hot any more, but not yet cool
    ladder.sensed(80.0, False)
    assert [change.step for change in drive(ladder, 60, 12, age=10)] == [0]


def test_what_a_device_does_not_offer_drives_nothing() -> None:
    ladder = Ladder(OPTIONS)
    ladder.sensed(None, None)
    assert drive(ladder, 0, 5, age=10) == []


def test_options_are_constants() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPTIONS.target_ms = 1  # type: ignore[misc]
