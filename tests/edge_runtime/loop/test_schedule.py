"""Counts, budget, reservoir and gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.loop.schedule import Budget, Gaps, Reservoir, ScheduleOptions, Turns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, "every is 0; give a whole number of at least 1"),
        ({"road_window": 0}, "road-window is 0"),
        ({"road_images": -1}, "road-images is -1"),
        ({"road_images": 20, "road_window": 10}, "road-images is 20, more than its window of 10 frames"),
        ({"budget": 1.5}, "budget is 1.5; give a share of time from 0 to 1"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(ScheduleOptions(), **change).check()  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_default_options_are_possible() -> None:
    ScheduleOptions().check()


def test_budget_spends_its_share_of_the_time() -> None:
    budget, spent = Budget(0.2), 0.0
    for tick in range(10_000):
        if budget.allows(tick / 100):
            budget.spend(0.03)
            spent += 0.03
    assert spent == pytest.approx(0.2 * 100, rel=0.02)


def test_budget_is_not_saved_up() -> None:
    budget = Budget(0.2, burst_seconds=1.0)
    budget.allows(0)
    budget.allows(3600)
    for _ in range(11):
        assert budget.allows(3600)
        budget.spend(0.1)
    assert not budget.allows(3600)


def test_no_budget_allows_nothing() -> None:
    assert not Budget(0.0).allows(10)


def test_costly_explainers_take_turns() -> None:
    turns = Turns(("vg", "ig", "sg"))
    assert [turns.take() for _ in range(4)] == ["ig", "sg", "ig", "sg"]
    assert Turns(("vg",)).take() is None


def test_reservoir_draws_every_item_alike() -> None:
    size, window, windows = 5, 40, 2000
    reservoir: Reservoir[int] = Reservoir(size, window, seed=3)
    drawn = np.zeros(window)
    for _ in range(windows):
        for item in range(window):
            kept = reservoir.offer(item)
            assert (kept is not None) == (item == window - 1)
        assert kept is not None and len(kept) == size and kept == sorted(set(kept))
        drawn[kept] += 1
    expected = windows * size / window
    # Chi-squared with 39 degrees of freedom: 99.99 % lie below 83.
    assert ((drawn - expected) ** 2 / expected).sum() < 83


def test_reservoir_is_its_seeds() -> None:
    def draws(seed: int) -> list[list[int] | None]:
        reservoir: Reservoir[int] = Reservoir(3, 50, seed)
        return [kept for kept in map(reservoir.offer, range(500)) if kept is not None]

    assert len(draws(0)) == 10
    assert draws(0) == draws(0) != draws(1)
    assert draws(0)[0] != [item - 50 for item in draws(0)[1] or []]


def test_an_empty_reservoir_never_gives() -> None:
    reservoir: Reservoir[int] = Reservoir(0, 5, 0)
    assert [reservoir.offer(item) for item in range(20)] == [None] * 20


def test_a_slice_must_fit_before_the_next_frame() -> None:
    gaps = Gaps()
    assert gaps.fits("vg", 0.001)  # never run: nobody knows better
    gaps.took("vg", 0.02)
    assert not gaps.fits("vg", 0.015)
    assert not gaps.fits("vg", 0.022), "no margin"
    assert gaps.fits("vg", 0.03)
    assert gaps.fits("vg", None)
    assert gaps.fits("ig", 0.015)


def test_the_longest_slice_is_forgotten_slowly() -> None:
    gaps = Gaps()
    gaps.took("vg", 1.0)
    for _ in range(10):
        gaps.took("vg", 0.01)
    assert not gaps.fits("vg", 0.5)
    for _ in range(100):
        gaps.took("vg", 0.01)
    assert gaps.fits("vg", 0.05)
