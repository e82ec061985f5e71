"""Splits: tracks stay together, classes keep their share, presets count as published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, InputError
from toolkit.data.dataset import Source, Split
from toolkit.data.splits import SPLITS, divide, hold_out, validation_share


def source(labels: np.ndarray, tracks: np.ndarray | None = None, test: Split | None = None) -> Source:
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    images[:, 0, 0, 1] = np.arange(len(labels)) // 256
    names = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Source("made", names, Split(images, labels, tracks), test=test)


def numbers(split: Split) -> list[int]:
    """Return the position of each image in the source, which ``source`` wrote into a pixel."""
    return (split.images[:, 0, 0, 0].astype(int) + 256 * split.images[:, 0, 0, 1].astype(int)).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=80), st.integers(0, 5))
def test_held_out_tracks_are_whole_and_every_class_stays_in_training(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, tracks = np.asarray(pairs, np.int64).T
    chosen = hold_out(labels, tracks, 0.3, np.random.default_rng(seed))
    assert not set(tracks[chosen]) & set(tracks[~chosen])
    assert set(labels[~chosen]) == set(labels)


def test_shares_are_kept_per_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [1000, 200, 40])
    chosen = hold_out(labels, None, 0.1, rng)
    assert [int(chosen[labels == label].sum()) for label in (0, 1, 2)] == [100, 20, 4]
    tracks = np.arange(len(labels)) // 10
    chosen = hold_out(labels, tracks, 0.2, rng)
    assert [int(chosen[labels == label].sum()) for label in (0, 1, 2)] == [200, 40, 10]


def test_track_split_cuts_test_and_validation_between_tracks() -> None:
    labels = np.repeat([0, 1], 300)
    made = source(labels, np.arange(600) // 30)
    train, validation, test = divide(made, "track", 0.1, np.random.default_rng(0))
    assert (len(train), len(validation), len(test)) == (420, 60, 120)
    groups = [set(part.tracks.tolist()) for part in (train, validation, test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert sorted(numbers(train) + numbers(validation) + numbers(test)) == list(range(600))


def test_random_split_lets_tracks_leak() -> None:
    made = source(np.repeat([0, 1], 300), np.arange(600) // 30)
    train, validation, test = divide(made, "random", 0.1, np.random.default_rng(0))
    assert (len(train), len(validation), len(test)) == (432, 48, 120)
    assert set(train.tracks.tolist()) & set(test.tracks.tolist())


def test_parts_that_the_data_set_brings_stay_as_they_are() -> None:
    own = Split(np.ones((7, 8, 8, 3), np.uint8), np.zeros(7, np.int64))
    for split in ("track", "random"):
        train, validation, test = divide(source(np.zeros(50, np.int64), test=own), split, 0.2, np.random.default_rng(0))
        assert test is own
        assert (len(train), len(validation)) == (40, 10)


def test_a_split_is_drawn_by_its_seed() -> None:
    made = source(np.repeat([0, 1], 300), np.arange(600) // 30)
    draws = [numbers(divide(made, "track", 0.1, np.random.default_rng(seed))[2]) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_validation_may_be_left_out() -> None:
    train, validation, test = divide(source(np.zeros(50, np.int64)), "track", 0.0, np.random.default_rng(0))
    assert (len(train), len(validation), len(test)) == (40, 0, 10)


def test_a_part_that_would_be_empty_is_refused() -> None:
    one_track = source(np.zeros(50, np.int64), np.zeros(50, np.int64))
    with pytest.raises(DataError, match="the validation and test part of 'made' would be empty with split 'track'"):
        divide(one_track, "track", 0.1, np.random.default_rng(0))


def test_presets_have_their_own_validation_share() -> None:
    assert [validation_share(split, None) for split in ("track", "random", "paper")] == [0.1, 0.1, 0.0]
    assert validation_share("paper", 0.2) == 0.2
    with pytest.raises(InputError, match="unknown split 'trak'; nearest: track"):
        validation_share("trak", None)
    with pytest.raises(InputError, match=r"validation share -0\.1 is outside 0 \.\. 0\.5"):
        validation_share("track", -0.1)


def test_every_preset_says_what_it_does() -> None:
    assert all(preset.about for preset in SPLITS.values())
