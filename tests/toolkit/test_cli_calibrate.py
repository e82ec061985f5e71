"""Calibrate by command, and the other commands in the precision that it added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edge_runtime.bundle import open_bundle
from tests.toolkit.conftest import TINY, Roadworthy, call, one_line

QUICK = ["--data", TINY, "--samples", 66, "--images", 66, "--explainer", "vg", "--no-cache"]
OPEN = ["--max-accuracy-drop", 1, "--min-rank-correlation", -1, "--max-road-auc-increase", 1]


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with INT8, with its ranges and its layers' table beside it; read only."""
    folder = tmp_path_factory.mktemp("calibrated")
    files = ["--ranges-out", folder / "ranges.json", "--sensitivity", folder / "layers.json"]
    assert call("calibrate", tiny_bundle, *QUICK, *OPEN, *files, "--out", folder / "natural") == 0
    return folder / "natural"


def test_files(made: Path) -> None:
    assert open_bundle(made).precisions == ("fp32", "int8")
    layers = json.loads((made.parent / "layers.json").read_text())
    assert len(layers) == 9
    assert {"layer", "alone_drift", "others_drift"} < set(layers[0])
    with Image.open(made.parent / "layers.png") as picture:
        assert picture.width > 500
    ranges = json.loads((made.parent / "ranges.json").read_text())
    assert ranges["samples"] == 66
    assert ranges["tensors"]["image"]["threshold"] > 0


def test_refusal_is_one_line_and_exit_code_3(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [*QUICK, "--max-accuracy-drop", 1, "--max-road-auc-increase", 1, "--min-rank-correlation", 1.1]
    code, out, error = roadworthy("calibrate", tiny_bundle, *arguments, "--out", tmp_path / "out")
    assert (code, out) == (3, "")
    last = error.splitlines()[-1]
    assert last.startswith("roadworthy: error: int8 is refused: the rank correlation of its explanations is")
    assert list(tmp_path.iterdir()) == []


def test_ranges_by_way_of_tensorrt(roadworthy: Roadworthy, made: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    given = ["--ranges", made.parent / "ranges.json", "--ranges-out", tmp_path / "int8.cache"]
    assert roadworthy("calibrate", tiny_bundle, *QUICK, *OPEN, *given, "--out", tmp_path / "one")[0] == 0
    assert (tmp_path / "one" / "classifier.int8.onnx").read_bytes() == (made / "classifier.int8.onnx").read_bytes()
    given = ["--ranges", tmp_path / "int8.cache"]
    assert roadworthy("calibrate", tiny_bundle, *QUICK, *OPEN, *given, "--out", tmp_path / "two")[0] == 0
    assert open_bundle(tmp_path / "two").manifest.precisions["int8"].method.startswith("TensorRT")


def test_noise_only_on_demand(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = [*QUICK[2:], *OPEN, "--data", "random", "--out", tmp_path / "out"]
    assert roadworthy("calibrate", tiny_bundle, *arguments)[0] == 0


def test_fp16(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    code, said, _ = roadworthy("calibrate", tiny_bundle, *QUICK, *OPEN, "--precision", "fp16", "--json", "--out", out)
    assert code == 0
    through = json.loads(said)["drifts"][0]
    assert (through["gradient"], through["rank_correlation"] > 0.99) == ("through", True)
    assert roadworthy("verify", out, "--precision", "fp16")[0] == 0


@pytest.mark.parametrize("command", ["verify", "audit", "bench"])
def test_commands_in_int8(roadworthy: Roadworthy, made: Path, command: str) -> None:
    arguments = {
        "verify": [],
        "audit": ["--no-road", "--method", "vg"],
        "bench": ["--precision", "fp32", "--iterations", 3, "--cold-starts", 0, "--stage", "classify"],
    }[command]
    code, out, error = roadworthy(command, made, "--precision", "int8", *arguments)
    assert (code, error) == (0, "")
    assert "int8" in out


def test_the_report_tells_precisions_apart(roadworthy: Roadworthy, made: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for precision in ("fp32", "int8"):
        audit = ["audit", made, "--precision", precision, "--no-road", "--method", "vg", "--out", results / precision]
        assert roadworthy(*audit)[0] == 0
    bench = ["--precision", "fp32", "--precision", "int8", "--iterations", 3, "--cold-starts", 0]
    assert roadworthy("bench", made, *bench, "--stage", "vg", "--out", results / "bench.json")[0] == 0
    assert roadworthy("report", results, "--out", tmp_path / "report")[0] == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("natural") and ", INT8" in page


BAD = {
    "method": (["--method", "max"], "unknown calibration method 'max'"),
    "precision": (["--precision", "int4"], "unknown precision 'int4'; nearest: int8"),
    "layer": (["--keep", "features"], "unknown layer 'features'"),
    "all layers": (["--keep-fp", "9"], "leaves nothing to quantise"),
    "samples": (["--samples", "5"], "5 samples for 22 classes"),
    "ranges": (["--ranges", "none.json"], "none.json cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_options_are_one_line(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path, kind: str) -> None:
    arguments, message = BAD[kind]
    code, out, error = roadworthy("calibrate", tiny_bundle, *QUICK, *OPEN, *arguments, "--out", tmp_path / "out")
    error = error.removeprefix(error[: error.find("roadworthy: ")])
    assert message in one_line((code, out, error))
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_the_bundle_lacks(roadworthy: Roadworthy, tiny_bundle: Path) -> None:
    assert "unknown precision of this bundle 'int8'" in one_line(
        roadworthy("verify", tiny_bundle, "--precision", "int8")
    )
