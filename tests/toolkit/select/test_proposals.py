"""What Optuna is told, and what it proposes: values in its directions, limits as constraints, nothing known."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.toolkit.select.synthetic import SPACE, measures, record
from toolkit.select.constraints import Limits
from toolkit.select.measures import Record, points
from toolkit.select.proposals import Proposals, proposals
from toolkit.select.space import Candidate

FAST = Candidate(method="channel", percent=80, timing="pre")
MASK = Candidate(method="l1", percent=20, timing="post", fine_tune=2)
LIMITS = Limits(max_latency_ms=1.0, max_accuracy_drop=5.0)


def told(journal: Path, records: list[Record], limits: Limits = LIMITS) -> Proposals:
    found = proposals(journal, SPACE, limits, 0)
    found.learn(records, {point.number: point for point in points(records)})
    return found


def finished(found: Proposals) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in found.study.trials if "number" in trial.user_attrs]


def test_values_and_constraints_are_told(tmp_path: Path) -> None:
    failed = Record(number=3, candidate=Candidate(method="l1", percent=90, timing="pre"), state="failed", reason="nan")
    found = told(tmp_path / "journal", [record(0), record(1, FAST), record(2, MASK), failed])
    fast, mask, lost = finished(found)
    assert [each.name for each in found.study.directions] == ["MINIMIZE", "MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    known = measures(FAST)
    assert fast.values == pytest.approx([known.ratio, known.accuracy, known.gini, known.road_auc])
    assert fast.params == SPACE.parameters(FAST)
    assert fast.constraints["max_latency_ms"] < 0 < fast.constraints["max_accuracy_drop"]
    assert mask.constraints["max_accuracy_drop"] < 0 < mask.constraints["max_latency_ms"]
    assert (lost.state, lost.user_attrs["reason"]) == (TrialState.FAIL, "nan")


def test_nothing_is_told_twice_and_the_baseline_is_no_choice(tmp_path: Path) -> None:
    records = [record(0), record(1, FAST)]
    told(tmp_path / "journal", records)
    again = told(tmp_path / "journal", records)
    assert [trial.user_attrs["number"] for trial in finished(again)] == [1]


def test_what_was_told_by_half_is_told_again(tmp_path: Path) -> None:
    records = [record(0), record(1, FAST)]
    begun = told(tmp_path / "journal", records[:1])
    begun.study.enqueue_trial(SPACE.parameters(FAST))
    trial = begun.study.ask()
    SPACE.suggest(trial)
    trial.set_user_attr("number", 1)  # and here the process is killed
    again = told(tmp_path / "journal", records)
    assert [each.state for each in finished(again)] == [TrialState.FAIL, TrialState.COMPLETE]


def test_other_limits_have_a_study_of_their_own(tmp_path: Path) -> None:
    records = [record(0), record(1, FAST)]
    told(tmp_path / "journal", records)
    (loose,) = finished(told(tmp_path / "journal", records, Limits(max_accuracy_drop=50.0)))
    assert list(loose.constraints) == ["max_accuracy_drop"] and loose.constraints["max_accuracy_drop"] < 0


def test_what_a_killed_process_asked_for_is_dropped(tmp_path: Path) -> None:
    begun = told(tmp_path / "journal", [record(0)])
    known = set(SPACE.beginning())
    first = begun.propose(known)
    begun.study.enqueue_trial({"method": "l1"})
    again = told(tmp_path / "journal", [record(0)])
    assert {trial.state for trial in again.study.trials} == {TrialState.FAIL}
    assert again.propose(known) == first


def test_what_is_known_is_never_proposed(tmp_path: Path) -> None:
    found = told(tmp_path / "journal", [record(0)])
    every = list(SPACE.all())
    last = every[100]
    assert found.propose(set(every) - {last}) == last
    assert found.propose(set(every)) is None


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    told(journal, [record(0), record(1, FAST)])
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:40])
    assert len(finished(told(journal, [record(0), record(1, FAST), record(2, MASK)]))) == 2
    assert journal.read_bytes().startswith(whole)
