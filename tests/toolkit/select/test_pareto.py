"""The Pareto set against its definition, over anything Hypothesis thinks of."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.select.synthetic import point
from toolkit.select.measures import OBJECTIVES, Point
from toolkit.select.pareto import pareto, steps

# Few values, so that ties and domination happen; finer than the resolutions, so that rounding matters.
VALUES = st.tuples(
    st.integers(1, 12).map(lambda n: n * 0.09),
    st.integers(0, 8).map(lambda n: 0.9 + n * 0.0004),
    st.integers(0, 8).map(lambda n: 0.5 + n * 0.002),
    st.integers(0, 8).map(lambda n: 0.4 + n * 0.002),
)
POINTS = st.lists(VALUES, max_size=12).map(lambda rows: [point(number, *row) for number, row in enumerate(rows)])


def dominates(one: Point, other: Point) -> bool:
    """The definition, objective by objective."""
    gains = []
    for each in OBJECTIVES:
        mine, others = (round(getattr(found, each.name) / each.resolution) for found in (one, other))
        gains.append(each.sign * (others - mine))
    return min(gains) >= 0 and max(gains) > 0


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_the_set_is_what_nothing_dominates(points: list[Point]) -> None:
    front = pareto(points)
    assert front == [one for one in points if not any(dominates(other, one) for other in points)]
    assert bool(front) == bool(points)
    # Whatever is left out is dominated by a member: domination is transitive.
    assert all(one in front or any(dominates(member, one) for member in front) for one in points)


@settings(max_examples=50, deadline=None)
@given(POINTS, st.integers(0, 99))
def test_the_order_does_not_matter(points: list[Point], seed: int) -> None:
    shuffled = random.Random(seed).sample(points, len(points))
    assert {each.number for each in pareto(shuffled)} == {each.number for each in pareto(points)}


def test_less_than_a_resolution_does_not_count() -> None:
    luckier, sparser = point(1, latency=1.0), point(2, latency=1.01, gini=0.6)
    assert pareto([luckier, sparser]) == [sparser]
    assert steps([luckier])[0, 0] == steps([sparser])[0, 0]


def test_every_objective_counts_in_its_direction() -> None:
    usual = point(1)
    for better in (point(2, latency=0.5), point(3, accuracy=0.93), point(4, gini=0.6), point(5, road=0.3)):
        assert pareto([usual, better]) == [better]
