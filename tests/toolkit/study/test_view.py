"""The live grid, drawn into text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.toolkit.squares import DATASET
from tests.toolkit.study.test_engine import STUDY
from toolkit.study import cells
from toolkit.study.view import GridView, duration


def test_the_grid_shows_done_running_and_failed() -> None:
    plan = cells.plan(STUDY, {"squares": DATASET})
    view = GridView(plan, {cell.name: "new" for cell in plan}, {cell.name: 3600.0 for cell in plan}, console())
    view.started(plan[0])
    view.done(plan[0], 5.0)
    view.started(plan[1])
    view.failed(plan[1], "the loss became nan in epoch 3")
    view.started(plan[2])
    view.step(plan[2], "training, epoch 1 of 2", 0.25)
    screen = drawn(view)
    assert "the loss became nan in epoch 3" in screen
    assert "training, epoch 1 of 2 25%, about 60 min left" in screen
    assert "1 of 4 cells done, 1 failed; about 2 h 0 min left" in screen


def test_cells_that_run_side_by_side() -> None:
    """As a cluster makes them: the time left is that of as many at once."""
    plan = cells.plan(STUDY, {"squares": DATASET})
    view = GridView(plan, {cell.name: "new" for cell in plan}, {cell.name: 3600.0 for cell in plan}, console())
    for cell in plan[:2]:
        view.started(cell)
        view.step(cell, "training", 0.5)
    view.step(plan[3], "a letter from a cell that was not started", 0.5)
    screen = drawn(view)
    assert screen.count("running") == 2 and screen.count("training 50%, about 60 min left") == 2
    assert "about 2 h 0 min left" in screen, "four hours of work for two at a time"
    view.done(plan[0], 5.0)
    assert view.left() == pytest.approx(3 * 3600.0, abs=60)


def test_elsewhere_each_end_is_a_line() -> None:
    (cell, *_) = plan = cells.plan(STUDY, {"squares": DATASET})
    out = console()
    view = GridView(plan, {each.name: "new" for each in plan}, {}, out)
    view.started(cell)
    view.done(cell, 61.0)
    view.failed(plan[1], "[red]no markup[/]")
    assert out.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"{cell.name}: done in 61 s",
        f"{plan[1].name}: failed: [red]no markup[/]",
    ]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 89, 91, 7000, 7300, 90000)] == [
        "0 s",
        "89 s",
        "2 min",
        "117 min",
        "2 h 2 min",
        "25 h 0 min",
    ]


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def drawn(view: GridView) -> str:
    screen = console()
    screen.print(view)
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]
