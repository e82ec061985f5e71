"""From records to points: beside the unpruned network, and on its latency scale."""

from __future__ import annotations

import pytest

from tests.toolkit.select.synthetic import measures, record
from toolkit.select.measures import OBJECTIVES, Record, points
from toolkit.select.space import Candidate

FAST = Candidate(method="channel", percent=50, timing="post", fine_tune=2)
MASK = Candidate(method="l1", percent=20, timing="post", fine_tune=2)


def test_without_the_unpruned_network_there_are_no_points() -> None:
    assert points([]) == [] and points([record(1, FAST)]) == []


def test_what_slows_both_bundles_cancels() -> None:
    """The second benchmark ran while everything took twice as long."""
    base, slowed = record(0), record(1, FAST, latency_ms=2.4, baseline_ms=4.0)
    whole, fast = points([slowed, base])
    assert (whole.number, whole.latency_ratio, fast.latency_ratio) == (0, 1.0, 0.6)
    assert whole.latency_ms == 3.0 and fast.latency_ms == pytest.approx(1.8), "on the median of the unpruned medians"


def test_drop_and_size_are_in_the_users_units() -> None:
    _, found = points([record(0), record(1, MASK, accuracy=0.94)])
    assert found.drop == pytest.approx(1.0) and found.size_mb == 1.0
    assert found.name == "trial 1 (l1 20 %, after training, 2 epochs of fine-tuning)"


def test_failed_candidates_are_no_points() -> None:
    failed = Record(number=2, candidate=FAST, state="failed", reason="diverged")
    assert [each.number for each in points([record(0), failed, record(1, MASK)])] == [0, 1]


def test_every_objective_is_a_measured_field_with_a_resolution() -> None:
    (found,) = points([record(0)])
    for each in OBJECTIVES:
        assert isinstance(getattr(found, each.name), float) and each.resolution > 0 and each.sign in (-1, 1)
    assert measures(FAST).ratio == pytest.approx(0.6)
