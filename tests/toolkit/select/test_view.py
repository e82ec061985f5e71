"""The view: one line for each candidate that ends, and on a terminal the table with the best so far."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from tests.toolkit.select.synthetic import record
from toolkit.select.constraints import Limits
from toolkit.select.measures import Record, points
from toolkit.select.space import BASELINE, Candidate
from toolkit.select.store import Trial
from toolkit.select.view import SearchView

FAST = Candidate(method="channel", percent=90, timing="pre")


def view(*, terminal: bool) -> tuple[SearchView, io.StringIO]:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=160)
    return SearchView(Limits(max_accuracy_drop=10.0), 4, console), said


def test_lines_where_nobody_watches() -> None:
    shown, said = view(terminal=False)
    records = [record(0), record(1, FAST)]
    shown.resumed(records[:1], points(records[:1]))
    shown.ended(records[1], points(records))
    shown.ended(Record(number=2, candidate=FAST, state="failed", reason="nan in epoch 1"), points(records))
    assert said.getvalue().splitlines() == [
        "1 candidates are known from an earlier start",
        "trial 1 (channel 90 %, before training): 0.56 ms (28%), 70.70%, Gini 0.680, ROAD 0.310, 0.55 MB; "
        "misses accuracy drop",
        "trial 2 (channel 90 %, before training): failed: nan in epoch 1",
    ]


def test_the_table_shows_what_runs_and_the_best() -> None:
    shown, said = view(terminal=True)
    records = [record(0)]
    shown.console.print(shown)
    assert "none keeps to the limits so far" in said.getvalue()
    shown.ended(records[0], points(records))
    shown.started(Trial(1, FAST, Path("trials/001")))
    shown.step("training, epoch 1 of 2", 0.25)
    shown.console.print(shown)
    text = said.getvalue()
    assert "training, epoch 1 of 2 25%" in text and "best so far: trial 0 (not pruned)" in text
    assert shown.records[0].candidate == BASELINE and "1 of up to 4 candidates" in text
