"""The recommendation: the feasible, undominated point that is nearest to the ideal, and its reasons."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.toolkit.select.synthetic import point
from tests.toolkit.select.test_constraints import LIMITS
from tests.toolkit.select.test_pareto import POINTS
from toolkit.select.constraints import Limits, violated
from toolkit.select.measures import OBJECTIVES, Point
from toolkit.select.pareto import pareto
from toolkit.select.recommend import SPAN, distances, reasons, recommend


def test_distances_are_from_the_best_of_everything() -> None:
    best, worst = point(1, latency=1.0, accuracy=0.99), point(2, latency=2.0, accuracy=0.90)
    assert distances([best, worst]) == pytest.approx([0.0, 2**0.5])
    assert distances([best]) == [0.0]
    middle = point(3, latency=1.5, accuracy=0.945)
    assert distances([best, middle, worst])[1] == pytest.approx(0.5 * 2**0.5)


def test_hairs_breadths_do_not_decide() -> None:
    """A resolution's difference is a tenth of a distance, although it is the whole range."""
    gini = next(each for each in OBJECTIVES if each.name == "gini")
    sparser, usual = point(1, gini=0.5 + gini.resolution), point(2)
    assert distances([sparser, usual]) == pytest.approx([0.0, 1 / SPAN])


@settings(max_examples=100, deadline=None)
@given(POINTS, LIMITS)
def test_it_is_feasible_undominated_and_nearest(points: list[Point], limits: Limits) -> None:
    kept = [each for each in points if not violated(each, limits)]
    choice = recommend(points, limits)
    if not kept:
        assert choice is None
        return
    assert choice is not None
    front = pareto(kept)
    assert choice.point in front and choice.distance == min(distances(front))
    assert (choice.feasible, choice.pareto, choice.measured) == (len(kept), len(front), len(points))
    assert (choice.runner_up is None) == (len(front) == 1)
    assert choice.runner_up_distance is None or choice.runner_up_distance >= choice.distance


def test_of_equals_the_fastest_and_then_the_first() -> None:
    equal = recommend([point(3), point(1), point(2)], Limits())
    assert equal is not None and equal.point.number == 1
    halves = [point(1, latency=1.0, gini=0.6), point(2, latency=2.0, gini=0.7, accuracy=0.9)]
    assert distances(halves) == pytest.approx([1.0, 1.0])
    faster = recommend(halves[::-1], Limits())
    assert faster is not None and faster.point.number == 1


def test_reasons_say_why_and_what_it_costs() -> None:
    baseline = point(0, latency=2.0, accuracy=0.95)
    points = [baseline, point(1, latency=0.8, accuracy=0.949, gini=0.55), point(2, latency=0.7, accuracy=0.5)]
    limits = Limits(max_latency_ms=1.0, max_accuracy_drop=1.0)
    choice = recommend(points, limits)
    assert choice is not None
    lines = list(reasons(choice, baseline, limits))
    assert lines[0].startswith("trial 1 (channel 50 %") and "of 3 measured candidates 1 keeps to the limits" in lines[0]
    assert lines[1] == (
        "against the unpruned network: latency 2 -> 0.8 ms (-60%), accuracy 95.00% -> 94.90% (-0.10 points), "
        "Gini 0.500 -> 0.550 (+0.050), ROAD MoRF AUC 0.400 -> 0.400 (+0.000), size 1 -> 1 MB (+0%)"
    )
    assert lines[2:] == [
        "limit: latency 0.8 ms, at most 1 ms allowed",
        "limit: accuracy drop 0.10 points, at most 1.00 points allowed",
    ]
    free = recommend([baseline, points[1]], Limits())
    assert free is not None and "limits" not in next(reasons(free, baseline, Limits()))


def test_the_unpruned_network_may_win() -> None:
    baseline, worse = point(0, latency=1.0, accuracy=0.95), point(1, latency=1.0, accuracy=0.9)
    choice = recommend([baseline, worse], Limits())
    assert choice is not None and choice.point == baseline
    assert any("pruning does not pay here" in line for line in reasons(choice, baseline, Limits()))
