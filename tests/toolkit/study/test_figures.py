"""ROAD curves with bands over all seeds, and which figures a study has."""

from __future__ import annotations

import numpy as np

from tests.toolkit.study.synthetic import LEVELS, STUDY, result
from toolkit.report.summary import Examples
from toolkit.study import figures
from toolkit.study.grid import Grid

RESULTS = [
    result("natural", "none", 0, morf=("11111", "11000")),
    result("natural", "none", 1, morf=("10000", "11000")),
    result("l1", "pre", 0),
]
EXAMPLES = Examples(
    images=np.zeros((1, 4, 4, 3), np.uint8),
    saliency={"vg": np.ones((1, 4, 4), np.float32)},
    labels=("stop",),
    predicted=("stop",),
)


def test_curves_pool_the_images_of_all_seeds() -> None:
    (subject,) = STUDY.subjects
    found = figures.curve(Grid.of(STUDY, RESULTS).natural(subject), "vg", "morf")
    assert found is not None and found.accuracy.tolist() == [1, 0.75, 0.25, 0.25, 0.25]
    low, high = found.accuracy_interval()
    assert (low <= found.accuracy).all() and (found.accuracy <= high).all() and (low < high).any()
    assert found.percentages.tolist() == list(LEVELS)


def test_figures_of_every_timing_and_example() -> None:
    examples = {each.name: EXAMPLES for each in RESULTS}
    found = figures.all_figures(Grid.of(STUDY, RESULTS), examples)
    assert set(found) == {f"{kind}s_{timing}_{last}" for timing in ("pre", "post") for kind, last in KINDS}
    (axes,) = found["road_s_pre_vg"].axes
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == ["natural", "l1"]
    assert len(axes.collections) == 4  # a band for each of two curves of two networks


KINDS = (("road_", "vg"), ("saliency_", "1"))


def test_no_results_no_figures() -> None:
    assert figures.all_figures(Grid.of(STUDY, []), {}) == {}
