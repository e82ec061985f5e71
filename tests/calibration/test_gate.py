"""The gate names every limit that is broken, the worst first."""

from __future__ import annotations

import math

import pytest

from calibration.gate import refusals
from edge_runtime.manifest import Gate, GateMeasures

GOOD = {"images": 10, "accuracy_drop": 0.005, "rank_correlation": 0.95, "road_auc_increase": 0.02}


def judged(**changes: float) -> list[str]:
    return refusals(Gate(), GateMeasures(**{**GOOD, **changes}))


def test_limits_themselves_pass() -> None:
    assert judged() == []
    assert judged(accuracy_drop=-0.1, rank_correlation=1.0, road_auc_increase=-0.3) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accuracy_drop": 0.0061}, "accuracy drops by 0.0061 (at most 0.005 is accepted)"),
        ({"rank_correlation": 0.9}, "the rank correlation of its explanations is 0.9000 (at least 0.95 is accepted)"),
        ({"road_auc_increase": 0.03}, "the area under ROAD grows by 0.0300 (at most 0.02 is accepted)"),
        ({"rank_correlation": math.nan}, "the rank correlation of its explanations is nan (at least 0.95 is accepted)"),
    ],
)
def test_each_limit(changes: dict[str, float], said: str) -> None:
    assert judged(**changes) == [said]


def test_the_worst_comes_first() -> None:
    found = judged(accuracy_drop=0.05, rank_correlation=0.94, road_auc_increase=0.03)
    assert [clause.split()[0:3] for clause in found] == [
        ["accuracy", "drops", "by"],
        ["the", "area", "under"],
        ["the", "rank", "correlation"],
    ]
