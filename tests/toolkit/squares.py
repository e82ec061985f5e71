"""A data set that trains in a second: blurred coloured squares, 16 x 16 pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from edge_runtime.variant import Variant
from toolkit.data import Dataset, Split

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [210, 210, 60]])


def squares(count: int, seed: int, size: int = 16) -> Split:
    """``count`` images of ``size`` x ``size`` pixels; the class is the colour of the square."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(COLOURS), count)
    images = rng.integers(0, 256, (count, size, size, 3))
    corners = rng.integers(1, size // 2, (count, 2))
    for image, label, (top, left) in zip(images, labels, corners, strict=True):
        patch = image[top : top + size // 3, left : left + size // 3]
        patch[:] = (patch + 3 * COLOURS[label]) // 4
    return Split(images.astype(np.uint8), labels.astype(np.int64), None)


def dataset() -> Dataset:
    parts = squares(203, 0), squares(40, 1), squares(80, 2)
    digest = hashlib.sha256(b"".join(part.images.tobytes() for part in parts)).hexdigest()
    return Dataset("squares", "squares", ("red", "green", "blue", "yellow"), *parts, digest)


DATASET = dataset()
VARIANT = Variant(dataset="squares", architecture="vgg_small", width=0.5, input_size=16)
