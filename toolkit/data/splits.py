"""How a data set is divided into train, validation and test: one table of presets.

Frames of one physical sign (a track) are near-duplicates. Where a validation or test share must be cut, ``track`` cuts
between tracks; ``paper`` repeats the published split, leaks included, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DataError, InputError, unknown
from toolkit.data.dataset import Labels, Mask, Source, Split

TEST_SHARE = 0.2  # cut from the training images of a data set that brings no test images

Divide = Callable[[Source, float, np.random.Generator], tuple[Split, Split, Split]]


@dataclass(frozen=True)
class Preset:
    """``divide(source, validation_share, rng)`` makes train, validation and test; ``validation`` is the usual share."""

    divide: Divide
    validation: float
    about: str


def by_track(source: Source, validation: float, rng: np.random.Generator) -> tuple[Split, Split, Split]:
    """Keep the parts that the data set brings; cut the missing ones so that no track is on two sides."""
    return cut_missing(source, source.train.tracks, validation, rng)


def by_image(source: Source, validation: float, rng: np.random.Generator) -> tuple[Split, Split, Split]:
    """Keep the parts that the data set brings; cut the missing ones image by image, so that tracks leak."""
    return cut_missing(source, None, validation, rng)


def as_published(source: Source, validation: float, rng: np.random.Generator) -> tuple[Split, Split, Split]:
    """Hold out what the paper's code held out of the training images; an official test set stays unused, as there."""
    if source.paper_test is None:
        raise DataError(f"the paper has no split of {source.name!r}; use one of: {', '.join(sorted(SPLITS))}")
    held_out = source.paper_test(rng)
    rest = source.train.take(~held_out)
    kept = hold_out(rest.labels, None, validation, rng)
    return rest.take(~kept), rest.take(kept), source.train.take(held_out)


SPLITS: dict[str, Preset] = {
    "track": Preset(by_track, 0.1, "official test images, or 20 % of the tracks; 10 % of the tracks for validation"),
    "random": Preset(by_image, 0.1, "like track, but cut image by image: near-duplicates leak"),
    "paper": Preset(as_published, 0.0, "GTSRB: random 20 % of the training folder; LISA: first 16 % of each class"),
}


def validation_share(split: str, validation: float | None) -> float:
    """Return the share of training images (0 .. 0.5) to hold out for validation; None takes that of the preset.

    Raises InputError for an unknown preset or a share out of range.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    share = SPLITS[split].validation if validation is None else validation
    if not 0 <= share <= 0.5:
        raise InputError(f"validation share {share} is outside 0 .. 0.5")
    return share


def divide(source: Source, split: str, share: float, rng: np.random.Generator) -> tuple[Split, Split, Split]:
    """Return train, validation and test by the preset named ``split``.

    ``share`` of the training images is held out where the data set brings no validation part. Raises DataError where
    a part would be empty.
    """
    parts = SPLITS[split].divide(source, share, rng)
    sizes = dict(zip(("train", "validation", "test"), map(len, parts), strict=True))
    empty = [name for name, size in sizes.items() if size == 0 and (name != "validation" or share > 0)]
    if empty:
        raise DataError(
            f"the {' and '.join(empty)} part of {source.name!r} would be empty with split {split!r}; "
            "bring more images per class, or try split 'random' or a validation share of 0"
        )
    return parts


def cut_missing(
    source: Source, tracks: Labels | None, validation: float, rng: np.random.Generator
) -> tuple[Split, Split, Split]:
    """Cut the parts that the source does not bring from its training images, between the groups ``tracks`` [N]."""
    train, held, test = source.train, source.validation, source.test
    if test is None:
        chosen = hold_out(train.labels, tracks, TEST_SHARE, rng)
        train, test = train.take(~chosen), train.take(chosen)
        tracks = None if tracks is None else tracks[~chosen]
    if held is None:
        chosen = hold_out(train.labels, tracks, validation, rng)
        train, held = train.take(~chosen), train.take(chosen)
    return train, held, test


def hold_out(labels: Labels, tracks: Labels | None, share: float, rng: np.random.Generator) -> Mask:
    """Choose about ``share`` of the images of every class, whole tracks at a time.

    Without ``tracks`` every image is its own. Classes go from rare to frequent, since a track may show several; each
    gives at least one track where it has two, and always keeps one.
    """
    if share == 0:
        return np.zeros(len(labels), bool)
    groups = np.arange(len(labels)) if tracks is None else np.unique(tracks, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((int(groups.max()) + 1, int(labels.max()) + 1), np.int64)
    np.add.at(counts, (groups, labels), 1)
    shuffled = rng.permutation(len(counts))
    chosen = np.zeros(len(counts), bool)
    left = (counts > 0).sum(axis=0)  # tracks of each class that stay in training
    totals = counts.sum(axis=0)
    for label in np.argsort(totals, kind="stable"):
        wanted = share * totals[label]
        have = counts[chosen, label].sum()
        for group in shuffled[counts[shuffled, label] > 0]:
            present = counts[group] > 0
            fits = have == 0 or have + counts[group, label] / 2 <= wanted
            if chosen[group] or not fits or left[present].min() < 2:
                continue
            chosen[group] = True
            left[present] -= 1
            have += counts[group, label]
    return chosen[groups]
