"""Samples are balanced, seeded, nested and without repetition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.sampling import balanced_sample
from edge_runtime.errors import InputError

LABELS = np.repeat(np.arange(5), [40, 3, 25, 100, 12])


def test_classes_are_even_until_one_runs_out() -> None:
    taken = np.bincount(LABELS[balanced_sample(LABELS, 42)], minlength=5)
    assert taken.tolist()[1] == 3
    assert sorted(np.delete(taken, 1).tolist()) == [9, 10, 10, 10]


def test_seed_decides() -> None:
    assert np.array_equal(balanced_sample(LABELS, 30, seed=4), balanced_sample(LABELS, 30, seed=4))
    assert not np.array_equal(balanced_sample(LABELS, 30, seed=4), balanced_sample(LABELS, 30, seed=5))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 80), st.integers(0, 99))
def test_any_labels(labels: list[int], count: int, seed: int) -> None:
    sample = balanced_sample(labels, count, seed=seed)
    assert len(sample) == len(set(sample.tolist())) == min(count, len(labels))
    assert sample.min() >= 0
    assert sample.max() < len(labels)
    smaller = balanced_sample(labels, max(1, count // 2), seed=seed)
    assert np.array_equal(sample[: len(smaller)], smaller)
    taken = np.bincount(np.asarray(labels)[sample], minlength=7)
    available = np.bincount(labels, minlength=7)
    left = taken[taken < available]
    assert not left.size or taken.max() - left.min() <= 1


@pytest.mark.parametrize(
    ("labels", "count", "message"), [([], 3, "shape"), ([[1, 2]], 3, "shape"), ([1, 2], 0, "at least 1")]
)
def test_bad_input(labels: list[int], count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        balanced_sample(labels, count)
