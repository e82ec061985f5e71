"""The search itself, with formulae for networks: nothing twice, nothing lost, and the same proposals in any case."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import InputError, RunError
from tests.toolkit.select.synthetic import IDENTITY, SPACE, Formula, measures, start
from toolkit.select import search
from toolkit.select.constraints import Limits
from toolkit.select.measures import Measures
from toolkit.select.space import BASELINE, Candidate, Space
from toolkit.select.store import Store

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulae leave no bundle of the unpruned network behind."""
    monkeypatch.setattr(search, "restore_bundle", lambda *ignored: None)


def slugs(out: Path) -> list[str]:
    return [trial.folder.name for trial in Store(out).trials()]


def test_the_unpruned_network_comes_first_then_every_method_then_proposals(tmp_path: Path) -> None:
    records, view, ended = start(tmp_path, trials=12)
    assert [each.number for each in records] == list(range(13)) and ended.startswith(
        "as many candidates as asked for: 12"
    )
    assert view.started_with[:3] == ["none", "l1-20-post-ft2", "channel-50-post-ft2-l2-uniform"]
    assert len({each.candidate for each in records}) == 13, "nothing twice"
    assert all(each.candidate in set(SPACE.all()) for each in records[1:])
    assert all(each.measures == measures(each.candidate) for each in records)


def test_proposals_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        start(tmp_path / name, trials=12, seed=seed)
    assert slugs(tmp_path / "one") == slugs(tmp_path / "same")
    assert slugs(tmp_path / "one") != slugs(tmp_path / "other")


def test_what_is_measured_stays_and_more_can_be_asked_for(tmp_path: Path) -> None:
    start(tmp_path, trials=4)
    make = Formula()
    records, view, _ = start(tmp_path, trials=4, make=make)
    assert (len(records), make.made, view.resumed_with) == (5, [], 5)
    records, _, _ = start(tmp_path, trials=12, make=make)
    assert len(records) == 13 and len(make.made) == 8
    start(tmp_path / "whole", trials=12)
    assert slugs(tmp_path) == slugs(tmp_path / "whole"), "as if it had never stopped"


def test_an_interrupted_candidate_is_made_again_and_the_rest_is_the_same(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(search.SearchInterruptedError, match="start the same command again") as stop:
        start(tmp_path, trials=12, make=Formula(at={9: interrupt}))
    assert stop.value.exit_code == 130
    make = Formula()
    records, view, _ = start(tmp_path, trials=12, make=make)
    assert len(records) == 13 and len(make.made) == 4 and view.started_with[0] == records[9].candidate.slug
    start(tmp_path / "whole", trials=12)
    assert slugs(tmp_path) == slugs(tmp_path / "whole")


def test_kill_9_anywhere_loses_nothing(tmp_path: Path) -> None:
    """A process is killed on the way; what it had measured stays, and the rest is as if it had not been."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.toolkit.select import synthetic\n"
        "from toolkit.select import search\n"
        "search.restore_bundle = lambda *ignored: None\n"
        "class Slow(synthetic.Formula):\n"
        "    def __call__(self, trial, *rest):\n"
        "        with open(sys.argv[1] + '.begun', 'a') as file:\n            print(trial.number, file=file)\n"
        "        time.sleep(0.05)\n        return super().__call__(trial, *rest)\n"
        "synthetic.start(Path(sys.argv[1]), trials=12, make=Slow())\n"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], cwd=REPOSITORY)
    deadline = time.monotonic() + 200
    while len(list(out.glob("trials/*/result.json"))) < 7:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    records, _, _ = start(out, trials=12)
    assert [each.number for each in records] == list(range(13))
    start(tmp_path / "whole", trials=12)
    assert slugs(out) == slugs(tmp_path / "whole")
    begun = (tmp_path / "killed.begun").read_text().split()
    assert all(begun.count(number) <= 2 for number in begun), "again at most where it was killed"


def test_other_limits_judge_the_same_measurements_anew(tmp_path: Path) -> None:
    start(tmp_path, trials=10)
    make = Formula()
    start(tmp_path, trials=10, make=make, limits=Limits(max_latency_ms=1.0))
    assert make.made == []
    records, _, _ = start(tmp_path, trials=13, make=make, limits=Limits(max_latency_ms=1.0))
    assert len(make.made) == 3 and len(records) == 14
    start(tmp_path, trials=14, make=make, space=Space(methods=("channel",), timings=("pre",), fine_tune=()))
    assert make.made[-1].timing == "pre" and make.made[-1].method == "channel"


@pytest.mark.parametrize("damage", ["missing", "foreign", "other", "torn", "nonsense"])
def test_a_lost_memory_is_made_anew(tmp_path: Path, damage: str) -> None:
    start(tmp_path / "one", trials=9)
    journal = tmp_path / "one" / "search.journal"
    whole = journal.read_bytes()
    if damage == "missing":
        journal.unlink()
    else:
        changed = {
            "foreign": b"no journal\n",
            "other": b'{"op": 0}\n',
            "torn": whole[:-20],
            "nonsense": whole[:300] + whole[400:],
        }
        journal.write_bytes(changed[damage])
    start(tmp_path / "one", trials=12)
    start(tmp_path / "whole", trials=12)
    assert slugs(tmp_path / "one") == slugs(tmp_path / "whole")


def test_a_failing_candidate_is_recorded_with_its_reason_and_not_tried_again(tmp_path: Path) -> None:
    def diverge() -> None:
        raise RunError("the loss became nan in epoch 1")

    records, view, _ = start(tmp_path, trials=5, make=Formula(at={2: diverge}))
    failed = records[2]
    assert (failed.state, failed.reason, failed.measures) == ("failed", "the loss became nan in epoch 1", None)
    assert [each.state for each in records].count("done") == 5 and view.records[2] == failed
    assert "RunError" in (Store(tmp_path).trials()[2].log).read_text()
    make = Formula()
    again, _, _ = start(tmp_path, trials=6, make=make)
    assert again[2] == failed and failed.candidate not in make.made and len(make.made) == 1


def test_bugs_of_one_candidate_do_not_end_the_search(tmp_path: Path) -> None:
    records, _, _ = start(tmp_path, trials=3, make=Formula(at={1: lambda: 1 / 0}))
    assert records[1].reason == "ZeroDivisionError: division by zero" and len(records) == 4


def test_without_the_unpruned_network_there_is_no_search(tmp_path: Path) -> None:
    def diverge() -> None:
        raise RunError("the loss became nan")

    with pytest.raises(RunError, match="nothing to compare with: the loss became nan"):
        start(tmp_path, make=Formula(at={0: diverge}))
    records, _, _ = start(tmp_path, trials=2)
    assert [each.state for each in records] == ["done"] * 3, "tried again at the next start"


def test_a_full_disk_stops_the_search_which_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "result.json" in path.name and "003-" in str(path.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(search.SearchStoppedError, match="the disk is full"):
        start(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", write)
    records, _, _ = start(tmp_path)
    assert len(records) == 7 and all(each.state == "done" for each in records)


def test_a_second_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(search.SearchStoppedError, match="running"):
            start(tmp_path)

    records, _, _ = start(tmp_path, trials=2, make=Formula(at={1: second}))
    assert records[1].state == "done"


def test_a_small_space_ends_when_everything_is_measured(tmp_path: Path) -> None:
    space = Space(methods=("layered", "semi-structured"), timings=("post",), fine_tune=(0, 1), low=50, high=60)
    records, _, ended = start(tmp_path, trials=50, space=space)
    assert {each.candidate for each in records} == {BASELINE, *space.all()} and ended == "every candidate is measured"


def test_the_timeout_begins_nothing_more(tmp_path: Path) -> None:
    records, _, ended = start(tmp_path, trials=50, timeout=0.0)
    assert [each.candidate for each in records] == [BASELINE] and ended == "0 seconds are over"


def test_the_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    start(tmp_path, trials=1)
    with pytest.raises(InputError, match=r"belongs to another search \(seed 0 there, 7 here\)"):
        start(tmp_path, trials=1, seed=7)


def test_leftovers_and_damaged_results_are_made_again(tmp_path: Path) -> None:
    start(tmp_path, trials=4)
    store = Store(tmp_path)
    store.trials()[2].result.write_bytes(b'{"number": 2, "candi')
    (tmp_path / "trials" / ".005-x.new-0123abcd").mkdir()
    make = Formula()
    records, _, _ = start(tmp_path, trials=4, make=make)
    assert len(records) == 5 and make.made == [records[2].candidate]
    assert not list(tmp_path.rglob(".*-0123abcd"))


def test_the_recommended_one_must_keep_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was measured fastest was lucky: timed again it is slow, and the next one takes its place."""
    lucky = Candidate(method="l1", percent=20, timing="post", fine_tune=2)
    again: list[Candidate] = []

    def make(trial: Any, *rest: Any) -> Measures:
        found = measures(trial.candidate)
        return msgspec.structs.replace(found, latency_ms=0.1) if trial.candidate == lucky else found

    def timed_again(trial: Any, baseline: Any, setup: Any, known: Measures, step: Any) -> Measures:
        again.append(trial.candidate)
        return measures(trial.candidate)

    monkeypatch.setattr(search, "timed_again", timed_again)
    records, view, _ = start(tmp_path, trials=2, make=make)
    wanted = search.Search(IDENTITY, SPACE, Limits(max_latency_ms=1.5), 2)
    confirmed = search.confirm(wanted, None, Store(tmp_path), view, records)  # type: ignore[arg-type]
    assert [each.slug for each in again] == ["l1-20-post-ft2", "channel-50-post-ft2-l2-uniform"]
    assert [each.confirmed for each in confirmed] == [False, True, True]
    assert search.confirm(wanted, None, Store(tmp_path), view, confirmed) == confirmed, "once"  # type: ignore[arg-type]
    assert len(again) == 2
    kept, _, _ = start(tmp_path, trials=2)
    assert kept == confirmed
