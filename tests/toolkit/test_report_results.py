"""From result files to the report: joining by bundle, names, and files that are no results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.audit import Distribution
from edge_runtime.errors import DataError
from tests.toolkit.conftest import Roadworthy, call
from toolkit.report.results import collect, mean, proportion


@pytest.fixture(scope="module")
def results(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit and a benchmark of the same bundle, as the commands leave them."""
    folder = tmp_path_factory.mktemp("results")
    assert call("audit", tiny_bundle, "--out", folder / "natural", "--examples", 3) == 0
    quick = ["--stage", "classify", "--iterations", 4, "--cold-starts", 0]
    assert call("bench", tiny_bundle, *quick, "--out", folder / "bench.json") == 0
    return folder


def test_audit_and_benchmark_of_a_bundle_are_one_row(results: Path) -> None:
    found = collect([results])
    (summary,) = found.summaries
    assert summary.name == "natural"
    assert summary.audited == 8
    assert summary.macs and summary.size and summary.parameters
    assert set(summary.gini) == {"vg", "ig", "sg"}
    assert set(summary.latency) >= {"classify", "vg", "ig", "sg"}
    bench = json.loads((results / "bench.json").read_text())
    assert summary.latency["classify"].p50 == bench["measurements"][0]["latency"]["p50"], (
        "the benchmark's, not the audit's"
    )
    assert summary.examples is not None
    assert summary.examples.images.shape == (3, 32, 32, 3)
    assert {heading for heading, _ in found.notes} >= {"device", "latency", "images", "explainer ig", "software"}


def test_audit_alone(results: Path) -> None:
    (summary,) = collect([results / "natural" / "audit.json"]).summaries
    assert summary.latency["classify"].p50 > 0


def test_benchmark_alone(results: Path) -> None:
    (summary,) = collect([results / "bench.json"]).summaries
    assert summary.name.startswith("rendered-vgg_small")
    assert (summary.size, summary.accuracy, summary.gini) == (None, None, {})


def test_same_label_falls_back_to_names_and_digests(results: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(results / "natural", tmp_path / name)
    audit = json.loads((tmp_path / "b" / "audit.json").read_text())
    audit["digest"] = "f" * 64
    (tmp_path / "b" / "audit.json").write_text(json.dumps(audit))
    (tmp_path / "b" / "manifest.json").unlink()
    names = [summary.name for summary in collect([tmp_path]).summaries]
    assert len(set(names)) == 2
    assert names[1].endswith("ffffff")


def test_other_json_files_in_a_folder_are_passed_over(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "other.json").write_text('{"explainers": "of something else"}')
    (tmp_path / "results" / "list.json").write_text("[1, 2]")
    assert len(collect([tmp_path / "results"]).summaries) == 1


def damaged(results: Path, tmp_path: Path) -> Path:
    audit = json.loads((results / "natural" / "audit.json").read_text())
    audit["images"] = "many"
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    return tmp_path / "audit.json"


def another_manifest(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results / "natural", tmp_path / "natural")
    (tmp_path / "natural" / "manifest.json").write_text("{}")
    return tmp_path / "natural"


def other_arrays(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results / "natural", tmp_path / "natural")
    np.savez(tmp_path / "natural" / "examples.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    return tmp_path / "natural"


def text_file(results: Path, tmp_path: Path) -> Path:
    (tmp_path / "text.json").write_text("no JSON")
    return tmp_path / "text.json"


def other_json(results: Path, tmp_path: Path) -> Path:
    (tmp_path / "other.json").write_text("{}")
    return tmp_path / "other.json"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda results, tmp_path: tmp_path, "no results in"),
        (lambda results, tmp_path: tmp_path / "none", "does not exist"),
        (text_file, "is not JSON"),
        (other_json, "is no result of"),
        (damaged, "not a result that this version reads"),
        (another_manifest, "not the manifest of the bundle that was audited"),
        (other_arrays, "does not hold the examples of an audit"),
    ],
)
def test_what_cannot_be_read(results: Path, tmp_path: Path, make: Callable[[Path, Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect([make(results, tmp_path)])


def test_report_command(roadworthy: Roadworthy, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, said, _ = roadworthy("report", results, "--out", out)
    assert (code, said.strip()) == (0, str(out / "report.html"))
    before = (out / "report.html").read_bytes()
    code, _, error = roadworthy("report", results, "--out", out)
    assert code == 2
    assert "already exists" in error
    assert roadworthy("report", results, "--out", out, "--force")[0] == 0
    assert (out / "report.html").read_bytes() == before
    assert roadworthy("report", tmp_path / "none", "--out", tmp_path / "other")[0] == 2
    assert not (tmp_path / "other").exists()


def test_mean_ignores_undefined_values() -> None:
    estimate = mean(Distribution(values=(0.2, None, 0.4), mean=0.3, undefined=1))
    assert estimate.value == pytest.approx(0.3)
    assert estimate.low is not None and estimate.low == pytest.approx(0.3 - 1.96 * 0.1)
    assert np.isnan(mean(Distribution(values=(None,), mean=None, undefined=1)).value)


def test_proportion_is_wilsons_interval() -> None:
    """10 of 10: [0.722, 1] (Wilson 1927, 95 %)."""
    estimate = proportion(1.0, 10)
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    assert estimate.low == pytest.approx(0.7225, abs=1e-3)
    assert estimate.high == pytest.approx(1.0)
    assert proportion(None, 10) is None
