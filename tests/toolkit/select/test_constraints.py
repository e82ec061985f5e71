"""Limits: what breaks them, and the smallest set of them that binds, against brute force."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import InputError
from tests.toolkit.select.synthetic import point
from tests.toolkit.select.test_pareto import POINTS
from toolkit.select.constraints import CONSTRAINTS, Limits, binding, explain, feasible, violated
from toolkit.select.measures import Point

LIMITS = st.builds(
    Limits,
    max_latency_ms=st.none() | st.floats(0.05, 1.2),
    max_accuracy_drop=st.none() | st.floats(-1, 6),
    min_gini=st.none() | st.floats(0.49, 0.53),
    max_road_auc=st.none() | st.floats(0.39, 0.43),
    max_size_mb=st.none() | st.floats(0.5, 1.5),
)
NAMES = [each.name for each in CONSTRAINTS]
FIRST = "trial 1 (channel 50 %, after training, 1 epoch of fine-tuning)"


def test_the_table_covers_every_limit() -> None:
    assert tuple(NAMES) == Limits.__struct_fields__
    assert Limits().given() == []


@pytest.mark.parametrize(
    ("name", "kept", "missed"),
    [
        ("max_latency_ms", 1.0, 0.9),
        ("max_accuracy_drop", 5.0, 4.9),
        ("min_gini", 0.5, 0.51),
        ("max_road_auc", 0.4, 0.39),
        ("max_size_mb", 1.0, 0.9),
    ],
)
def test_a_limit_is_kept_up_to_its_value(name: str, kept: float, missed: float) -> None:
    found = point(1)
    assert violated(found, Limits(**{name: kept})) == frozenset()
    assert violated(found, Limits(**{name: missed})) == {name}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_latency_ms": -1.0}, "--max-latency-ms -1 is not above 0"),
        ({"max_latency_ms": 0.0}, "--max-latency-ms 0 is not above 0"),
        ({"max_latency_ms": math.inf}, "--max-latency-ms inf"),
        ({"max_latency_ms": math.nan}, "--max-latency-ms nan"),
        ({"max_accuracy_drop": 101.0}, "--max-accuracy-drop 101 is outside -100 .. 100"),
        ({"min_gini": 1.1}, "--min-gini 1.1 is outside 0 .. 1"),
        ({"min_gini": math.nan}, "--min-gini nan"),
        ({"max_road_auc": -0.1}, "--max-road-auc -0.1 is outside 0 .. 1"),
        ({"max_size_mb": 0.0}, "--max-size-mb 0 is not above 0"),
    ],
)
def test_what_nothing_could_meet_is_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Limits(**given)


def without(limits: Limits, names: tuple[str, ...]) -> Limits:
    return msgspec.structs.replace(limits, **dict.fromkeys(names))


def smallest_by_trying(points: list[Point], limits: Limits) -> set[frozenset[str]]:
    """Remove one limit, any two, any three ... until something is feasible."""
    for size in range(len(NAMES) + 1):
        found = {
            frozenset(names)
            for names in itertools.combinations([each.name for each in limits.given()], size)
            if feasible(points, without(limits, names))
        }
        if found:
            return found if size else set()
    return set()


@settings(max_examples=100, deadline=None)
@given(POINTS, LIMITS)
def test_what_binds_is_what_brute_force_finds(points: list[Point], limits: Limits) -> None:
    found = binding(points, limits)
    assert {each.names for each in found} == smallest_by_trying(points, limits)
    for each in found:
        assert each.point in feasible(points, without(limits, tuple(each.names)))


def test_explanations_name_best_values_and_what_binds() -> None:
    points = [point(0, latency=2.0, accuracy=0.95, gini=0.5), point(1, latency=1.0, accuracy=0.90, gini=0.6)]
    limits = Limits(max_latency_ms=1.5, max_accuracy_drop=2.0, min_gini=0.55)
    assert list(explain(points, limits)) == [
        f"latency at most 1.5 ms: met by 1 of 2; best 1 ms, {FIRST}",
        "accuracy drop at most 2.00 points: met by 1 of 2; best 0.00 points, trial 0 (not pruned)",
        f"Gini at least 0.550: met by 1 of 2; best 0.600, {FIRST}",
        f"accuracy drop binds: without it {FIRST} would do",
    ]
    both = Limits(max_latency_ms=0.5, min_gini=0.9)
    assert list(explain(points, both))[-1] == f"latency and Gini bind together: without them {FIRST} would do"
    assert "met by none" in next(explain(points, both))


def test_the_nearest_alternative_comes_first() -> None:
    points = [point(1, latency=1.0, gini=0.1), point(2, latency=1.3, gini=0.5)]
    limits = Limits(max_latency_ms=1.2, min_gini=0.5)
    assert [each.titles for each in binding(points, limits)] == ["latency", "Gini"]
    assert list(explain(points, limits))[-1].startswith("or Gini binds")
