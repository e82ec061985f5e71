"""Running a study: sharing, isolation of failures, and going on after a kill, a full disk and Ctrl-C."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.toolkit.conftest import Roadworthy, one_line
from tests.toolkit.squares import DATASET
from toolkit import runs
from toolkit.study import cells, engine
from toolkit.study.cells import Cell
from toolkit.study.engine import Workplace
from toolkit.study.schema import Attack, Evaluation, Overrides, Strategy, Study, Subject

STUDY = Study(
    title="Squares",
    subjects=(Subject(name="squares", dataset="squares", architecture="vgg_small", width=0.25, size=16),),
    strategies=(
        Strategy(name="natural"),
        Strategy(name="l1", pruning="l1", timing=("post-tuned", "post")),
        Strategy(name="channel", pruning="channel", timing=("pre",)),
    ),
    training=Overrides(epochs=2, batch=32, learning_rate=0.05),
    fine_tuning=Overrides(epochs=1),
    attack=Attack(steps=1),
    evaluation=Evaluation(images=10, road=(0.0, 50.0), robust_eps=0.0, shown=2, explainers=("vg",)),
)
TINY = """\
title = "Tiny"
seeds = [0, 1]
[training]
epochs = 4
batch = 32
learning_rate = 0.05
[fine_tuning]
epochs = 1
[attack]
steps = 3
[evaluation]
explainers = ["vg"]
images = 12
road = [10, 30, 60]
robust_steps = 2
robust_images = 10
shown = 1
[[subjects]]
name = "tiny"
dataset = "rendered?train=132&validation=44&test=66"
architecture = "vgg_small"
width = 0.25
size = 16
compare = "gtsrb-vgg"
[[strategies]]
name = "natural"
[[strategies]]
name = "adversarial"
eps = 0.01
[[strategies]]
name = "global"
pruning = "global"
timing = ["post-tuned"]
"""
READ = ("tables.md", "tables.csv", "claims.md", "claims.csv", "data/road.csv", "report.html")


@dataclass
class Watched:
    """A view that remembers; ``at`` may be a call to make at the first report of a cell's progress."""

    events: list[tuple[str, str]] = field(default_factory=list)
    at: dict[str, Callable[[], None]] = field(default_factory=dict)

    def started(self, cell: Cell) -> None:
        self.events.append(("started", cell.name))

    def step(self, cell: Cell, doing: str, done: float) -> None:
        assert 0 <= done <= 1
        if call := self.at.pop(cell.name, None):
            call()

    def done(self, cell: Cell, seconds: float) -> None:
        self.events.append(("done", cell.name))

    def failed(self, cell: Cell, reason: str) -> None:
        self.events.append(("failed", cell.name))


def start(out: Path, study: Study = STUDY, view: Watched | None = None) -> tuple[engine.Outcome, list[tuple[str, str]]]:
    view = view or Watched()
    datasets = {"squares": DATASET}
    outcome = engine.run_cells(study, cells.plan(study, datasets, "cpu"), datasets, out, view)
    return outcome, view.events


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    outcome, events = start(out)
    assert not outcome.failures and len(outcome.results) == 4
    assert [kind for kind, _ in events] == ["started", "done"] * 4
    return out


def test_results_describe_their_networks(finished: Path) -> None:
    outcome, events = start(finished)
    assert events == [], "done cells are skipped"
    tuned, pre = outcome.results["squares/l1-post-tuned/s0"], outcome.results["squares/channel-pre/s0"]
    assert (tuned.variant.pruning, tuned.variant.timing, tuned.variant.fine_tune_epochs) == ("l1", "post", 1)
    assert (pre.variant.pruning, pre.variant.timing) == ("channel", "pre")
    assert pre.macs < tuned.macs
    assert len(tuned.correct) == len(DATASET.test)
    assert tuned.accuracy == tuned.correct.count("1") / len(tuned.correct)
    road = tuned.explainers["vg"].road
    assert road is not None and {row[0] for row in road.morf} == {"1"}, "nothing removed: right images stay right"
    assert tuned.robust_accuracy is None


def test_the_natural_network_is_shared(finished: Path) -> None:
    names = [path.name for path in (finished / "runs").iterdir()]
    assert len(names) == 4 and sum("natural" in name for name in names) == 1
    log = (finished / "logs" / "squares-l1-post-tuned-s0.log").read_text()
    assert "epoch 1 of 1" in log and "of 2" not in log


def test_the_same_network_under_another_name_is_shared(tmp_path: Path) -> None:
    twins = (Strategy(name="natural"), Strategy(name="baseline", eps=0.0))
    outcome, _ = start(tmp_path, msgspec.structs.replace(STUDY, strategies=twins))
    assert set(outcome.results) == {"squares/natural/s0", "squares/baseline/s0"}
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert "epoch" not in (tmp_path / "logs" / "squares-baseline-s0.log").read_text()


def test_a_cell_in_steps_goes_on_and_leaves_nothing_behind(tmp_path: Path) -> None:
    stepped = Strategy(name="steps", pruning="channel", timing=("post-tuned",), importance="taylor", steps=2)
    study = msgspec.structs.replace(
        STUDY, strategies=(STUDY.strategies[0], stepped), fine_tuning=Overrides(epochs=2), training=Overrides(epochs=1)
    )

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(engine.StudyInterruptedError, match="stopped in squares/steps-post-tuned/s0"):
        start(tmp_path, study, Watched(at={"squares/steps-post-tuned/s0": stop}))
    assert list(tmp_path.glob("runs/*.steps/request.json"))
    outcome, _ = start(tmp_path, study)
    assert not outcome.failures
    variant = outcome.results["squares/steps-post-tuned/s0"].variant
    assert (variant.steps, variant.importance, variant.fine_tune_epochs) == (2, "taylor", 2)
    assert not list(tmp_path.glob("runs/*.steps"))


def test_other_measurements_use_the_same_networks(finished: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    study = msgspec.structs.replace(STUDY, evaluation=msgspec.structs.replace(STUDY.evaluation, images=5))
    outcome, _ = start(finished, study)
    assert {len(result.images) for result in outcome.results.values()} == {5}
    assert weights == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}


def test_a_damaged_result_is_measured_again(tmp_path: Path) -> None:
    study = msgspec.structs.replace(STUDY, strategies=STUDY.strategies[:1])
    before, _ = start(tmp_path, study)
    (path,) = (tmp_path / "cells").glob("*.json")
    whole = msgspec.json.decode(path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    after, events = start(tmp_path, study)
    assert len(events) == 2
    again = msgspec.json.decode(path.read_bytes())
    assert {**again, "seconds": None} == {**whole, "seconds": None}
    assert before.results.keys() == after.results.keys()


@pytest.mark.parametrize("content", [b"junk", b"", b"PK\x03\x04 torn"])
def test_damaged_examples_are_measured_again(finished: Path, content: bytes) -> None:
    natural = cells.plan(STUDY, {"squares": DATASET}, "cpu")[0]
    path = Workplace(finished).result(natural).with_suffix(".npz")
    whole = path.read_bytes()
    path.write_bytes(content)
    outcome, events = start(finished)
    assert events == [("started", "squares/natural/s0"), ("done", "squares/natural/s0")]
    assert len(outcome.results) == 4 and path.read_bytes() == whole


@pytest.mark.parametrize("name", [runs.WEIGHTS, runs.INFO])
def test_a_damaged_network_is_made_again(tmp_path: Path, name: str) -> None:
    """As a power cut leaves it: there by name, without its content."""
    study = msgspec.structs.replace(STUDY, strategies=STUDY.strategies[:2])
    start(tmp_path, study)
    run = next((tmp_path / "runs").glob("*natural*"))
    whole = (run / runs.WEIGHTS).read_bytes()
    (run / name).write_bytes(b"")
    for path in tmp_path.glob("cells/*l1-post-s0*"):
        path.unlink()
    for path in tmp_path.glob("runs/*l1-post-s0*/*"):
        path.unlink()
    outcome, events = start(tmp_path, study)
    assert not outcome.failures and [name for _, name in events] == ["squares/l1-post/s0"] * 2
    assert (run / runs.WEIGHTS).read_bytes() == whole
    notes = " ".join(outcome.results["squares/l1-post/s0"].notes)
    assert "is damaged" in notes and "made again" in notes


def test_a_diverging_cell_fails_with_its_epoch_and_the_rest_goes_on(tmp_path: Path) -> None:
    study = msgspec.structs.replace(STUDY, fine_tuning=Overrides(epochs=2, learning_rate=1e3, weight_decay=1))
    outcome, _ = start(tmp_path, study)
    assert set(outcome.failures) == {"squares/l1-post-tuned/s0"}
    assert re.search(r"in epoch [12]", outcome.failures["squares/l1-post-tuned/s0"])
    assert len(outcome.results) == 3
    assert "stopped: Traceback" in (tmp_path / "logs" / "squares-l1-post-tuned-s0.log").read_text()


def test_descendants_of_a_failed_cell_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = engine.pipeline.train

    def fail(*arguments: Any, **options: Any) -> Any:
        if options["prune"] is None:
            raise ZeroDivisionError("a bug")
        return train(*arguments, **options)

    monkeypatch.setattr(engine.pipeline, "train", fail)
    outcome, events = start(tmp_path)
    assert outcome.failures == {
        "squares/natural/s0": "ZeroDivisionError: a bug",
        "squares/l1-post-tuned/s0": "squares/natural/s0 failed",
        "squares/l1-post/s0": "squares/natural/s0 failed",
    }
    assert [name for kind, name in events if kind == "done"] == ["squares/channel-pre/s0"]
    monkeypatch.undo()
    again, _ = start(tmp_path)
    assert not again.failures and len(again.results) == 4
    # What is done stays done, whatever becomes of the network that it came from.
    for path in (*tmp_path.glob("cells/*natural*"), *tmp_path.glob("runs/*natural*/variant.json")):
        path.unlink()
    monkeypatch.setattr(engine.pipeline, "train", fail)
    kept, _ = start(tmp_path)
    assert set(kept.failures) == {"squares/natural/s0"} and len(kept.results) == 3


def test_a_full_disk_stops_the_study_which_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "natural" in str(path) and path.suffix.startswith(".new"):
            return write(path, content)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(engine.StudyStoppedError, match="the disk is full"):
        start(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("cells/*.json"))
    outcome, _ = start(tmp_path)
    assert len(outcome.results) == 4 and not outcome.failures


def test_ctrl_c_keeps_the_checkpoint(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    view = Watched(at={"squares/channel-pre/s0": interrupt})
    with pytest.raises(engine.StudyInterruptedError, match="squares/channel-pre/s0"):
        start(tmp_path, view=view)
    place = Workplace(tmp_path)
    states = {cell.name: place.state(cell) for cell in cells.plan(STUDY, {"squares": DATASET}, "cpu")}
    assert sorted(states.values()) == ["begun", "done", "done", "done"]
    outcome, _ = start(tmp_path)
    assert len(outcome.results) == 4


def test_one_study_at_a_time(tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(engine.StudyStoppedError, match="running"):
            start(tmp_path)

    study = msgspec.structs.replace(STUDY, strategies=STUDY.strategies[:1])
    outcome, _ = start(tmp_path, study, Watched(at={"squares/natural/s0": second}))
    assert len(outcome.results) == 1


def test_leftovers_of_a_killed_process_are_removed(finished: Path) -> None:
    (finished / "runs" / ".some-run.new-0123abcd").mkdir()
    (finished / "cells" / ".some-cell.json.new-0123abcd").write_text("half")
    start(finished)
    assert not list(finished.rglob(".*-0123abcd"))


def test_an_unusable_checkpoint_starts_over(tmp_path: Path) -> None:
    study = msgspec.structs.replace(STUDY, strategies=STUDY.strategies[:1])
    (cell,) = cells.plan(study, {"squares": DATASET}, "cpu")
    partial = runs.partial_folder(Workplace(tmp_path).run(cell))
    partial.mkdir(parents=True)
    (partial / "checkpoint.safetensors").write_bytes(b"torn")
    outcome, _ = start(tmp_path, study)
    assert any("starts over" in note for note in outcome.results[cell.name].notes)


# --- the command


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


def read(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in READ}


def test_dry_run_prints_the_plan_and_makes_nothing(roadworthy: Roadworthy, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, _ = roadworthy("study", tiny, "--out", out, "--dry-run", "--only", "*/global-*")
    assert code == 0 and not out.exists()
    lines = said.splitlines()
    assert len(lines) == 5 and lines[0].startswith("tiny/natural/s0")
    assert "new" in lines[1] and lines[1].endswith("from tiny/natural/s0")
    assert re.match(r"4 cells, 0 done; about \d+ s to go", lines[-1])


def test_refusals_are_one_line(roadworthy: Roadworthy, tiny: Path) -> None:
    assert "nearest: rendered" in one_line(roadworthy("study", "renderd"))
    tiny.write_text(TINY.replace("epochs = 4", "epoch = 4"))
    assert f"{tiny}:4: unknown key 'epoch'" in one_line(roadworthy("study", tiny))


def test_kill_and_start_again_give_the_same_tables(roadworthy: Roadworthy, tiny: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a training; the second start resumes it and writes the same bytes."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = "from toolkit.cli import main; main()"
    arguments = [sys.executable, "-c", command, "study", str(tiny), "--out", str(killed), "--device", "cpu"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not (begun := epochs_done(killed, "adversarial")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < begun < 4 and not (killed / "tables.md").exists()
    assert roadworthy("study", tiny, "--out", killed, "--device", "cpu")[0] == 0
    log = (killed / "logs" / "tiny-adversarial-s0.log").read_text()
    assert log.count("begins") == 2 and log.count("epoch 1 of 4") == 1, "the checkpoint was used"
    assert roadworthy("study", tiny, "--out", whole, "--device", "cpu")[0] == 0
    assert read(killed) == read(whole)
    check_page(whole)


def epochs_done(out: Path, name: str) -> int:
    found = list(out.glob(f"runs/*{name}*.partial/metrics.jsonl"))
    return found[0].read_text().count("\n") if found else 0


def check_page(out: Path) -> None:
    page = (out / "report.html").read_text()
    for words in ("Table 2: accuracy", "Table 4: Gini", "Pruning makes MoRF curves steeper", "undecided", "(99.2)"):
        assert words in page
    assert page.count("data:image/svg+xml;base64,") == 1  # one explainer, one timing
    assert page.count("data:image/png;base64,") == 1
    assert (out / "figures" / "road_tiny_post-tuned_vg.png").is_file()


def test_a_disk_that_is_full_when_the_report_is_written(
    roadworthy: Roadworthy, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("study", tiny, "--out", tmp_path / "out", "--device", "cpu", "--only", "*/natural/s0")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "report.html" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, error = roadworthy(*command)
    last = error.splitlines()[-1]
    assert code != 0 and "the disk is full" in last and last.endswith("start the same command again to go on")
    monkeypatch.undo()
    code, said, _ = roadworthy(*command)
    assert code == 0 and said.startswith("1 of 1 cells done")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rendered_study_to_its_end(roadworthy: Roadworthy, tmp_path: Path) -> None:
    code, said, _ = roadworthy("study", "rendered", "--out", tmp_path / "out", "--device", "cpu", "--threads", 1)
    assert code == 0 and said.startswith("22 of 22 cells done")
    table = (tmp_path / "out" / "tables.md").read_text()
    natural = re.search(r"\| pre-train \| (\d+\.\d) ± ", table)
    assert natural is not None and float(natural[1]) > 60, "the networks learn"


def test_failed_cells_are_named_and_the_report_is_written(roadworthy: Roadworthy, tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(
        TINY.replace("[fine_tuning]", "[fine_tuning]\nlearning_rate = 1000\nweight_decay = 1\nepochs = 9")
        .replace("epochs = 9\nepochs = 1", "epochs = 9")
        .replace("[0, 1]", "[0]")
    )
    code, said, error = roadworthy("study", tiny, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 3 and "2 of 3 cells done" in said
    assert "failed: tiny/global-post-tuned/s0" in error and re.search(r"in epoch \d", error)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 cell failed and is missing below" in page and "tiny/global-post-tuned/s0" in page
