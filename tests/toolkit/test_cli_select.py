"""``roadworthy select`` from end to end on coloured squares: killed, resumed, judged anew, and every refusal."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import open_bundle
from tests.toolkit.conftest import Roadworthy, call, one_line
from tests.toolkit.squares import squares

pytestmark = pytest.mark.timeout(900)  # trainings and exports in a module's fixture

LOOSE = ("--max-accuracy-drop", "90")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    for name, count, seed in (("train", 203, 0), ("validation", 40, 1), ("test", 80, 2)):
        found = squares(count, seed)
        np.savez(folder / f"{name}.npz", images=found.images, labels=found.labels)
    return folder


def arguments(data: Path, out: Path, *more: object) -> list[str]:
    fixed = ["--size", "16", "--width", "0.5", "--epochs", "3", "--batch", "32", "--device", "cpu", "--threads", "1"]
    quick = ["--trials", "1", "--method", "channel", "--timing", "post", "--images", "8", "--seconds", "0.02"]
    return ["select", "--data", f"npz:{data}", *fixed, *quick, "--out", str(out), *map(str, more)]


@pytest.fixture(scope="module")
def searched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of one candidate: killed by kill -9 while the unpruned network trained, then gone on with."""
    out = tmp_path_factory.mktemp("select") / "out"
    command = [sys.executable, "-c", "from toolkit.cli import main; main()", *arguments(data, out, *LOOSE)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 250
        metrics = out / "trials" / "000-baseline" / "run.partial" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert call(*arguments(data, out, *LOOSE)) == 0
    return out


def outcome(out: Path) -> dict[str, Any]:
    found = json.loads((out / "pareto.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_outcome_is_complete(searched: Path) -> None:
    found = outcome(searched)
    assert [row["state"] for row in found["trials"]] == ["done", "done"]
    whole, pruned = found["trials"]
    assert (whole["number"], whole["latency_ratio"], whole["accuracy_drop"]) == (0, 1.0, 0.0)
    assert pruned["candidate"]["method"] == "channel" and pruned["macs"] < whole["macs"]
    assert pruned["size_mb"] < whole["size_mb"]
    assert any(row["pareto"] for row in found["trials"])
    assert [row["number"] for row in found["trials"] if row["recommended"]] == [found["recommended"]]
    assert found["reason"][0].startswith(f"trial {found['recommended']} (")
    assert "on 80 test images, which had no say" in found["reason"][-1]
    log = (searched / "trials" / "000-baseline" / "trial.log").read_text()
    assert log.count("begins") == 2 and log.count("epoch 1 of 3") == 1, "the checkpoint was used"
    with (searched / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1"] and float(rows[0]["gini"]) == whole["gini"]


def test_the_recommended_bundle_is_the_measured_one_with_its_baselines(searched: Path) -> None:
    found = outcome(searched)
    bundle = open_bundle(searched / "recommended")
    result = json.loads(next((searched / "trials").glob(f"{found['recommended']:03}-*/result.json")).read_bytes())
    assert bundle.manifest.files["classifier.onnx"].sha256 == result["measures"]["classifier_sha256"]
    assert bundle.digest == found["tested"]["bundle"]
    baselines = bundle.manifest.baselines
    assert baselines is not None and set(baselines.gini) == {"vg", "ig", "sg"}
    assert {path.name for path in (searched / "trials").glob("*/bundle")} == {"bundle"}
    assert not list((searched / "trials").glob("001-*/bundle")), "bundles of candidates go when they are measured"


def test_only_the_recommendation_sees_test_images(searched: Path, data: Path) -> None:
    """The bundles that candidates are measured with hold validation images, the recommended one test images."""
    splits = {name: np.load(data / f"{name}.npz")["images"] for name in ("validation", "test")}

    def inside(images: Any, split: str) -> bool:
        known = {hashlib.sha256(image.tobytes()).digest() for image in splits[split]}
        return all(hashlib.sha256(image.tobytes()).digest() in known for image in images)

    measured = open_bundle(searched / "trials" / "000-baseline" / "bundle").audit_set().images
    assert inside(measured, "validation") and not inside(measured, "test")
    assert inside(open_bundle(searched / "recommended").audit_set().images, "test")


class Page(HTMLParser):
    """Counts what stands in the page and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_no_network(searched: Path) -> None:
    text = (searched / "select.html").read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("img") == 4 and all(uri.startswith("data:image/svg+xml;base64,") for uri in page.loaded)
    assert "Recommended: trial" in text and "not pruned" in text and "channel 50 % by l2 in each layer" in text


def test_the_same_command_again_measures_nothing(roadworthy: Roadworthy, searched: Path, data: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in searched.rglob("*") if path.suffix in (".safetensors", ".onnx")}
    before = outcome(searched)
    code, said, _ = roadworthy(*arguments(data, searched, *LOOSE))
    assert code == 0 and "2 candidates measured, 2 within the limits" in said and before["reason"][0] in said
    assert outcome(searched) == before
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_limits_that_nothing_meets_name_what_binds(
    roadworthy: Roadworthy, searched: Path, data: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(searched, tmp_path / "copy")
    code, said, error = roadworthy(*arguments(data, out, *LOOSE, "--min-gini", "0.99"))
    assert code == 4 and "0 within the limits" in said
    lines = [line.strip() for line in error.splitlines()]
    start = lines.index("roadworthy: no candidate keeps to all limits")
    assert lines[start + 1].startswith("accuracy drop at most 90.00 points: met by 2 of 2; best")
    assert lines[start + 2].startswith("Gini at least 0.990: met by none; best 0.")
    assert lines[start + 3].startswith("Gini binds: without it trial")
    assert not (out / "recommended").exists(), "no recommendation of other limits stays behind"
    found = outcome(out)
    assert found["recommended"] is None and found["binding"] == [["min_gini"]]
    assert "No candidate keeps to all limits" in (out / "select.html").read_text()


def test_json_is_the_outcome(roadworthy: Roadworthy, searched: Path, data: Path) -> None:
    code, said, _ = roadworthy(*arguments(data, searched, *LOOSE, "--json"))
    assert code == 0 and json.loads(said) == outcome(searched)


def test_another_search_is_refused(roadworthy: Roadworthy, searched: Path, data: Path, tmp_path: Path) -> None:
    code, _, error = roadworthy(*arguments(data, searched, "--seed", 3))
    assert code == 2 and "belongs to another search (seed 0 there, 3 here)" in error
    code, _, error = roadworthy(*arguments(data, searched, "--epochs", 4))
    assert code == 2 and "training.epochs 3 there, 4 here" in error
    (tmp_path / "thesis.tex").write_text("mine")
    assert "holds 'thesis.tex' and no search" in one_line(roadworthy(*arguments(data, tmp_path)))


def test_a_run_to_begin_with(roadworthy: Roadworthy, searched: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is trained for --fine-tune 0, and the run's own settings are taken over."""
    run = searched / "trials" / "000-baseline" / "run"
    given = ["select", "--data", f"npz:{data}", "--from", run, "--out", tmp_path / "out", "--device", "cpu"]
    short = ["--method", "channel", "--fine-tune", 0, "--trials", 1, "--images", 8, "--seconds", 0.02, "--threads", 1]
    code, _, error = roadworthy(*given, *short, "--min-gini", 0.99)
    assert code == 4, error
    found = outcome(tmp_path / "out")
    assert found["search"]["origin"] is not None and found["search"]["width"] == 0.5
    assert found["trials"][0]["accuracy"] == outcome(searched)["trials"][0]["accuracy"]
    assert found["trials"][1]["candidate"]["timing"] == "post"
    for wrong, words in (
        (["--width", 1], "--width does not go with --from"),
        (["--epochs", 1], "--epochs does not go with --from"),
        (["--timing", "pre"], "--timing pre does not go with --from"),
        (["--from", tmp_path / "none"], "does not exist"),
    ):
        assert words in one_line(roadworthy(*given, *wrong))
    pruned = next((searched / "trials").glob("001-*/run"))
    assert "is pruned already" in one_line(roadworthy(*given, "--from", pruned))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--max-latency-ms", -1], "--max-latency-ms -1 is not above 0"),
        (["--min-gini", 1.5], "--min-gini 1.5 is outside 0 .. 1"),
        (["--max-road-auc", 2], "--max-road-auc 2 is outside 0 .. 1"),
        (["--max-accuracy-drop", 101], "--max-accuracy-drop 101 is outside -100 .. 100"),
        (["--max-size-mb", 0], "--max-size-mb 0 is not above 0"),
        (["--trials", 0], "--trials 0 is too small"),
        (["--seconds", "nan"], "--seconds nan is too small"),
        (["--method", "chanel"], "unknown pruning method 'chanel'; nearest: channel"),
        (["--timing", "during"], "unknown timing 'during'"),
        (["--provider", "cuda13"], "unknown provider 'cuda13'; nearest: cuda"),
        (["--provider", "auto"], "so auto is no choice"),
        (["--explainer", "gradcam"], "unknown explainer 'gradcam'"),
        (["--architecture", "vgg61"], "unknown model 'vgg61'"),
        (["--recipe", "slow"], "unknown training preset 'slow'"),
        (["--data", "renderd"], "unknown data set 'renderd'; nearest: rendered"),
        (["--min-percent", 95], "shares from 95 to 90 %"),
    ],
)
def test_refusals_are_one_line(roadworthy: Roadworthy, wrong: list[object], words: str, tmp_path: Path) -> None:
    assert words in one_line(roadworthy("select", "--out", tmp_path / "out", *wrong))
    assert not (tmp_path / "out").exists()


def test_without_validation_images_there_is_nothing_to_choose_by(roadworthy: Roadworthy, tmp_path: Path) -> None:
    given = ["--data", "rendered?train=66&validation=0&test=22", "--out", tmp_path / "out"]
    code, _, error = roadworthy("select", *given)
    assert code == 2 and "validation" in error
