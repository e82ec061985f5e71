"""What a data set is: three splits of labelled images, their names, and a digest that travels into every run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
Channels = tuple[float, float, float]

# PROTOCOL "preprocessing": the study normalises both of its data sets with these, per RGB channel on [0, 1].
MEAN: Channels = (0.4563, 0.4076, 0.3895)
STD: Channels = (0.2298, 0.2144, 0.2259)


@dataclass(frozen=True)
class Split:
    """Labelled images: ``images`` uint8 [N, S, S, 3] RGB, ``labels`` int64 [N].

    ``tracks`` int64 [N] numbers the physical sign that near-duplicate frames show; None where that is not known.
    """

    images: Images
    labels: Labels
    tracks: Labels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Mask | Labels) -> Split:
        """Return the images that a mask or index array chooses."""
        tracks = None if self.tracks is None else self.tracks[chosen]
        return Split(self.images[chosen], self.labels[chosen], tracks)


@dataclass(frozen=True)
class Source:
    """What a reader found: the parts as they were distributed, before a split is drawn.

    ``validation`` and ``test`` are None where the data set does not bring its own. ``paper_test`` returns the mask of
    ``train`` that the paper's code held out for testing, given a random generator; None where the paper knows no such
    data set. ``skipped`` describes the damaged images that were left out.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split | None = None
    paper_test: Callable[[np.random.Generator], Mask] | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training.

    ``name`` is short and fit for folder names, ``spec`` what the user asked for. ``digest`` is the SHA-256 of images,
    labels, label names and split. ``mean`` and ``std`` (RGB, on the [0, 1] scale) normalise the classifier's input.
    ``validation`` is empty where a split preset has none.
    """

    name: str
    spec: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    digest: str
    mean: Channels = MEAN
    std: Channels = STD
    skipped: tuple[str, ...] = ()

    def held_out(self) -> Split:
        """Return the images that no training saw: the test split, or where there is none the validation split."""
        for split in (self.test, self.validation):
            if len(split):
                return split
        raise InputError(f"{self.spec} holds out no images; choose another --split")

    def describe(self) -> str:
        """Return one line for people: sizes, and how many damaged images were left out."""
        sizes = f"{len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test images"
        line = f"{self.name}: {sizes}, {len(self.labels)} classes"
        if self.skipped:
            line += f"; left out {len(self.skipped)} damaged, first: {self.skipped[0]}"
        return line


def digest(labels: tuple[str, ...], train: Split, validation: Split, test: Split) -> str:
    """Return the SHA-256 (hex) over label names, and over shape, images and labels of each split in order."""
    running = hashlib.sha256("\n".join(labels).encode())
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        running.update(f"\n{name} {split.images.shape}\n".encode())
        running.update(np.ascontiguousarray(split.images).data)
        running.update(split.labels.astype("<i8").data)
    return running.hexdigest()
