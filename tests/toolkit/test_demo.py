"""The demo on few signs: every variant ends in the report, and Ctrl-C leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.progress import Progress

from edge_runtime.bundle import open_bundle
from tests.toolkit.conftest import TINY, Roadworthy
from toolkit import demo, training
from toolkit.demo import DemoPlan, DemoStoppedError

VARIANTS = ("natural", "l1", "global", "layered", "channel")


@pytest.fixture(scope="module")
def small(request: pytest.FixtureRequest) -> None:
    """Fewer images and calls; what is done stays the same."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setattr(demo, "AUDIT_IMAGES", 22)
    patch.setattr(demo, "BENCHMARKS", dict.fromkeys(demo.BENCHMARKS, 3))


@pytest.mark.usefixtures("small")
def test_whole_job(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code, said, _ = roadworthy("demo", "--data", TINY, "--out", out)
    assert code == 0
    assert said.splitlines()[-1] == f"report: {out / 'report.html'}"
    page = (out / "report.html").read_text()
    for name in VARIANTS:
        assert f"<td>{name}</td>" in page
        assert open_bundle(out / "bundles" / name).has("audit_set.npz")
        assert len(json.loads((out / "results" / name / "classify.json").read_text())) == demo.SHOWN_IMAGES
        assert (out / "results" / name / "explained.png").is_file()
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert figures >= {"gini", "latency_gini", "saliency_1"}
    macs = {name: open_bundle(out / "bundles" / name).manifest.macs or 0 for name in VARIANTS}
    assert macs["channel"] < macs["natural"] == macs["l1"]
    nonzero = {name: open_bundle(out / "bundles" / name).manifest.nonzero_parameters or 0 for name in VARIANTS}
    assert nonzero["l1"] < nonzero["natural"]


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_epoch", stop)
    with pytest.raises(DemoStoppedError, match="written only when everything is done") as stopped:
        demo.run(DemoPlan(TINY), tmp_path / "demo", Progress(disable=True))
    assert stopped.value.exit_code == 130
    assert not list(tmp_path.iterdir())
