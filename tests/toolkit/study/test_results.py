"""Results as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import RunError
from tests.toolkit.study.synthetic import result
from toolkit.report.summary import Examples
from toolkit.study.results import bits, read_examples, read_result, text, write_result


def test_results_and_examples_come_back_as_they_were(tmp_path: Path) -> None:
    written = result("natural", "none", 3, gini=(0.5, float("nan")))
    rng = np.random.default_rng(0)
    shown = Examples(
        images=rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8),
        saliency={"vg": rng.random((2, 4, 4), dtype=np.float32)},
        labels=("stop", "yield"),
        predicted=("stop", "stop"),
    )
    path = tmp_path / "cells" / "one.json"
    write_result(path, written, shown)
    assert read_result(path) == written
    assert read_result(path).explainers["vg"].gini.values == (0.5, None)
    again = read_examples(path)
    assert again is not None and (again.labels, again.predicted) == (shown.labels, shown.predicted)
    assert np.array_equal(again.images, shown.images) and np.array_equal(again.saliency["vg"], shown.saliency["vg"])
    assert sorted(each.name for each in path.parent.iterdir()) == ["one.json", "one.npz"]


def test_results_without_examples(tmp_path: Path) -> None:
    write_result(tmp_path / "one.json", result("natural", "none", 0), None)
    assert read_examples(tmp_path / "one.json") is None


def test_damaged_and_missing_results_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    for name in ("torn.json", "missing.json"):
        with pytest.raises(RunError, match=f"{name} cannot be read"):
            read_result(tmp_path / name)


def test_bits_and_text_are_inverse() -> None:
    values = np.array([True, False, True])
    assert text(values) == "101"
    assert bits(("101", "000")).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_area_of_a_known_curve() -> None:
    road = result("l1", "pre", 0, morf=("11000", "10000")).explainers["vg"].road
    assert road is not None and road.area("morf") == pytest.approx(20 / 90)
