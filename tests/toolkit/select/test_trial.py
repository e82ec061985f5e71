"""Measuring: steadiness, what was not pruned at all, and nothing held out but validation images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DataError, RunError
from tests.toolkit.select.synthetic import SETUP
from tests.toolkit.squares import DATASET
from toolkit import runs
from toolkit.select import search, trial
from toolkit.select.space import BASELINE, Candidate
from toolkit.select.store import Store


def test_without_test_images_validation_is_what_is_held_out() -> None:
    seen = trial.without_test(DATASET)
    assert len(seen.test) == 0 and seen.held_out() is seen.validation and seen.digest == DATASET.digest
    empty = DATASET.validation.take(np.zeros(len(DATASET.validation), bool))
    with pytest.raises(DataError, match="no validation images to choose by"):
        trial.without_test(replace(DATASET, validation=empty))


@dataclass
class Timed:
    """A measurement's verdict."""

    steady: bool | None
    others: float


def benchmarks(monkeypatch: pytest.MonkeyPatch, *found: Timed) -> list[Timed]:
    """Let the benchmark find these, one after the other; returns what was not asked for."""
    left = list(found)

    def run(*ignored: Any) -> Any:
        each = left.pop(0)
        return SimpleNamespace(result=SimpleNamespace(measurements=(Timed(None, -1.0), each)))

    monkeypatch.setattr(trial, "benchmark_bundles", run)
    return left


def timed() -> Timed:
    own, _ = trial.time_bundles(None, None, SETUP.measuring, 0.01, lambda stage, done: None)  # type: ignore[arg-type]
    return own  # type: ignore[return-value]


def test_a_steady_timing_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for steady in (True, None):
        left = benchmarks(monkeypatch, Timed(steady, 0.3), Timed(True, 0.0))
        assert timed() == Timed(steady, 0.3) and len(left) == 1


def test_an_unsteady_one_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks(monkeypatch, Timed(False, 0.3), Timed(True, 0.5))
    assert timed() == Timed(True, 0.5)


def test_of_unsteady_ones_the_least_disturbed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    left = benchmarks(monkeypatch, Timed(False, 0.3), Timed(False, 0.1), Timed(False, 0.2), Timed(True, 0.0))
    assert timed() == Timed(False, 0.1) and len(left) == 1


def test_what_is_as_large_as_before_was_not_pruned() -> None:
    def bundle(parameters: int, nonzero: int) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(parameters=parameters, nonzero_parameters=nonzero))

    whole = bundle(100, 100)
    with pytest.raises(RunError, match=r"nothing was pruned: .* multiples of 8"):
        trial.require_pruned(bundle(100, 100), whole)
    trial.require_pruned(bundle(60, 60), whole)
    trial.require_pruned(bundle(100, 80), whole)


@pytest.mark.parametrize("name", [runs.WEIGHTS, runs.INFO])
def test_a_damaged_network_is_made_again(tmp_path: Path, name: str) -> None:
    """As a power cut leaves it: there by name, without its content."""
    store = Store(tmp_path)
    baseline = store.begin(0, BASELINE)
    pruned = store.begin(1, Candidate(method="l1", percent=20, timing="post", fine_tune=0))
    for each in (baseline, pruned):
        trial.make_run(each, baseline, SETUP, lambda doing, done: None)
    files = [each.run / runs.WEIGHTS for each in (baseline, pruned)]
    whole = [file.read_bytes() for file in files]
    for each in (baseline, pruned):
        (each.run / name).write_bytes(b"")
    search.restore_bundle(baseline, SETUP, lambda doing, done: None)
    trial.make_run(pruned, baseline, SETUP, lambda doing, done: None)
    assert [file.read_bytes() for file in files] == whole
