"""The two-sample test against scipy's, and the monitor: error rate, leaving, returning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edge_runtime.loop.drift import DriftMonitor, baseline_values, ks_distance, ks_p_value, monitors
from edge_runtime.manifest import Baselines, DriftOptions, RoadBaseline


@pytest.mark.parametrize(("n", "m"), [(8, 8), (50, 100), (50, 22), (13, 57), (100, 300), (1, 9)])
def test_distance_and_exact_p_value_are_those_of_scipy(n: int, m: int) -> None:
    generator = np.random.default_rng((n, m))
    for shift in np.linspace(0, 1.5, 12):
        first, second = np.sort(generator.standard_normal(n)), np.sort(generator.standard_normal(m) + shift)
        expected = stats.ks_2samp(first, second, method="exact")
        distance = ks_distance(first, second)
        assert distance == pytest.approx(expected.statistic, abs=1e-12)
        assert ks_p_value(distance, n, m) == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)


def test_p_value_of_no_and_of_every_difference() -> None:
    assert ks_p_value(0.0, 50, 100) == 1.0
    assert ks_p_value(1.0, 3, 4) == pytest.approx(2 / 35)  # two of the 35 orders part the samples entirely


def test_ties_count_once() -> None:
    first, second = np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert ks_distance(first, second) == pytest.approx(0.25)


def test_tied_values_alarm_less_not_more() -> None:
    """ROAD's areas take few different values; the promise must hold for them too."""
    generator = np.random.default_rng(0)
    rejected = sum(
        ks_p_value(ks_distance(np.sort(a), np.sort(b)), 30, 60) < 0.05
        for a, b in ((generator.integers(0, 6, 30), generator.integers(0, 6, 60)) for _ in range(400))
    )
    assert rejected <= 0.05 * 400


def test_stationary_streams_alarm_no_more_often_than_stated() -> None:
    """Expected alarms are at most threshold * values / stride, also for windows that overlap."""
    options = DriftOptions(window=20, stride=5, threshold=0.02, returned=0.02)
    trials, values = 150, 70
    alarms = tests = 0
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        monitor = DriftMonitor("confidence", generator.beta(5, 1, 60), options)
        changes = [monitor.add(value) for value in generator.beta(5, 1, values)]
        alarms += sum(change is not None and change.drifted for change in changes)
        tests += 1 + (values - options.window) // options.stride
    expected = options.threshold * tests
    assert 0 < alarms <= expected + 4 * expected**0.5
    assert expected <= options.threshold * trials * values / options.stride


def test_the_defaults_stay_silent_for_long() -> None:
    generator = np.random.default_rng(0)
    monitor = DriftMonitor("gini vg", generator.normal(0.5, 0.1, 100), DriftOptions())
    assert [monitor.add(value) for value in generator.normal(0.5, 0.1, 5000)] == [None] * 5000
    assert monitor.p_value is not None


def test_one_change_when_it_leaves_and_one_when_it_returns() -> None:
    generator = np.random.default_rng(1)
    monitor = DriftMonitor("confidence", generator.normal(0.9, 0.03, 100), DriftOptions())
    found = []
    for mean in (0.9, 0.6, 0.9):
        changes = [monitor.add(value) for value in generator.normal(mean, 0.03, 300)]
        found.append([change for change in changes if change is not None])
        assert monitor.drifted == (mean == 0.6)
    assert [len(changes) for changes in found] == [0, 1, 1]
    left, back = found[1][0], found[2][0]
    assert left.drifted and left.p_value < 1e-5
    assert left.mean < left.baseline_mean == pytest.approx(0.9, abs=0.01)
    assert not back.drifted and back.p_value >= 1e-2


def test_undefined_values_are_left_out() -> None:
    monitor = DriftMonitor("gini vg", np.linspace(0, 1, 50), DriftOptions(window=8, stride=1))
    for value in (None, float("nan"), float("inf")):
        for _ in range(50):
            assert monitor.add(value) is None
    assert monitor.p_value is None


def test_thin_takes_every_so_many_th_value() -> None:
    monitor = DriftMonitor("confidence", np.linspace(0, 1, 50), DriftOptions(window=8, stride=1, thin=10))
    for number in range(79):
        monitor.add(number / 80)
    assert monitor.p_value is None
    monitor.add(0.5)
    assert monitor.p_value is not None


def test_measures_come_from_the_baselines() -> None:
    values = tuple(np.linspace(0, 1, 8).tolist())
    road = RoadBaseline(percentages=(10.0,), morf=(0.5,), lerf=(0.9,), areas=values)
    baselines = Baselines(gini={"vg": values, "ig": values[:3], "sg": ()}, road={"vg": road}, confidence=values)
    assert set(baseline_values(baselines)) == {"confidence", "gini vg", "gini ig", "road vg"}
    assert set(monitors(baselines, DriftOptions())) == {"confidence", "gini vg", "road vg"}
    assert monitors(Baselines(), DriftOptions()) == {}
