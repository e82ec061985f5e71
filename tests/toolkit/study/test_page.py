"""The files that a study leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import RunError
from tests.toolkit.study.synthetic import STUDY, result
from toolkit.study import page

RESULTS = [result("natural", "none", 0, morf=("11000", "10000")), result("l1", "pre", 0)]


def write(out: Path, failures: dict[str, str]) -> str:
    paths = {each.name: out / "missing.json" for each in RESULTS}
    return page.write_all(STUDY, RESULTS, failures, paths, out).read_text()


def test_page_names_failures_escaped_and_holds_its_figures(tmp_path: Path) -> None:
    text = write(tmp_path, {"s/adv/s0": "<b>NaN</b> in epoch 3"})
    assert "1 cell failed" in text and "&lt;b&gt;NaN&lt;/b&gt; in epoch 3" in text
    assert text.count('<img src="data:image/svg+xml;base64,') == 2
    assert "http://" not in text and "https://" not in text
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"report.html", "tables.md", "tables.csv", "claims.md", "claims.csv", "data/road.csv"}
    assert expected <= names and "figures/road_s_pre_vg.svg" in names


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        write(tmp_path / name, {})
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_curves_as_numbers() -> None:
    lines = page.road_csv(RESULTS).splitlines()
    assert lines[0] == "cell,explainer,order,removed_percent,accuracy,images"
    assert "s/natural-none/s0,vg,morf,21.0,0.5,2" in lines
    assert len(lines) == 1 + 2 * 2 * 5


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write(tmp_path / "file", {})
