"""``pareto.json`` and the page, from measurements alone: flags, order, failures, and what stands in the figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest

from tests.toolkit.select.synthetic import IDENTITY, record
from toolkit.select import page
from toolkit.select.constraints import Limits
from toolkit.select.figures import PANELS, all_figures
from toolkit.select.measures import Record
from toolkit.select.outcome import Judged, Outcome, assemble, judge, write_outcome
from toolkit.select.space import BASELINE, Candidate
from toolkit.select.store import Store

FAST = Candidate(method="channel", percent=50, timing="post", fine_tune=2, importance="l2", scope="uniform")
SMALL = Candidate(method="channel", percent=90, timing="pre")
LOST = Candidate(method="l1", percent=90, timing="post")
RECORDS = [
    record(0),
    record(1, FAST),
    record(2, SMALL),
    Record(number=3, candidate=LOST, state="failed", reason="<nan> in epoch 1"),
]


def outcome(root: Path, limits: Limits) -> tuple[Outcome, Judged]:
    store = Store(root)
    for each in RECORDS:
        store.begin(each.number, each.candidate)
    judged = judge(RECORDS, limits)
    return assemble(judged, IDENTITY, store, "time is up", None), judged


def test_flags_follow_from_the_limits(tmp_path: Path) -> None:
    found, _ = outcome(tmp_path, Limits(max_accuracy_drop=10.0))
    assert [row.feasible for row in found.trials] == [True, True, False, False]
    assert [row.pareto for row in found.trials] == [True, True, False, False]
    assert found.trials[2].misses == ("max_accuracy_drop",)
    assert found.recommended == 1 and found.trials[1].recommended and found.binding == ()
    assert found.trials[1].run == "trials/001-channel-50-post-ft2-l2-uniform/run"
    assert found.trials[3].latency_ms is None and found.trials[3].reason == "<nan> in epoch 1"


def test_without_a_feasible_one_the_front_is_that_of_all(tmp_path: Path) -> None:
    found, judged = outcome(tmp_path, Limits(max_latency_ms=0.01, min_gini=0.9))
    assert found.recommended is None and found.binding == (("max_latency_ms", "min_gini"),)
    assert sum(row.pareto for row in found.trials) == len(judged.front) > 0
    assert found.reason[-1].startswith("latency and Gini bind together")


def test_files_are_written_and_read_back(tmp_path: Path) -> None:
    found, judged = outcome(tmp_path, Limits(max_accuracy_drop=10.0))
    write_outcome(found, page.render(found, judged), Store(tmp_path))
    again = msgspec.json.decode((tmp_path / "pareto.json").read_bytes(), type=Outcome)
    assert msgspec.json.encode(again) == msgspec.json.encode(found)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "pareto.csv").read_text())))
    assert [row["method"] for row in rows] == ["none", "channel", "channel", "l1"]
    assert rows[2]["misses"] == "max_accuracy_drop" and rows[3]["latency_ms"] == ""


def test_the_page_says_it_all_and_is_the_same_every_time(tmp_path: Path) -> None:
    found, judged = outcome(tmp_path, Limits(max_accuracy_drop=10.0))
    text = page.render(found, judged)
    assert text == page.render(found, judged)
    assert "Recommended: trial 1" in text and "misses accuracy drop" in text and "&lt;nan&gt; in epoch 1" in text
    assert text.index('<td data-name="latency, ms">1.2') < text.index('<td data-name="latency, ms">2</td>')
    none, judged = outcome(tmp_path, Limits(min_gini=0.95))
    assert "Gini binds" in page.render(none, judged)


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_shows_all_candidates_and_its_limits(name: str) -> None:
    limits = Limits(max_latency_ms=1.5, max_accuracy_drop=10.0, min_gini=0.4, max_road_auc=0.45)
    axes = all_figures(judge(RECORDS, limits))[name].axes[0]
    assert {text.get_text() for text in axes.texts} == {"0", "1", "2"}
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 2, "one for each axis"
    legend = axes.get_legend()
    assert legend is not None
    shown = {text.get_text() for text in legend.get_texts()}
    assert {"not pruned", "channel", "not dominated"} <= shown


def test_of_nothing_but_the_baseline(tmp_path: Path) -> None:
    judged = judge([record(0)], Limits())
    Store(tmp_path).begin(0, BASELINE)
    found = assemble(judged, IDENTITY, Store(tmp_path), "time is up", None)
    assert found.recommended == 0 and "not pruned" in page.render(found, judged)
