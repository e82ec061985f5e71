"""Calibration images: a balanced, seeded sample of a training split, checked, with a digest, streamed in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from calibration.ranges import Images, Stream
from calibration.sampling import balanced_sample
from edge_runtime.errors import DataError, InputError
from edge_runtime.manifest import InputSpec
from edge_runtime.preprocess import normalize
from edge_runtime.sessions import DEFAULT_PROVIDER, default_chunk

# Share of images of one colour that is left out; beyond it the set is refused.
TOLERATED_CONSTANT = 0.01

Pixels = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """``images`` uint8 [N, H, W, 3] with ``labels`` int64 [N]; ``source`` is what the user calls them."""

    images: Pixels
    labels: Classes
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: npt.NDArray[np.int64]) -> LabelledImages:
        """Return the images ``indices``, in that order."""
        return LabelledImages(self.images[indices], self.labels[indices], self.source)


def calibration_sample(data: LabelledImages, spec: InputSpec, classes: int, count: int, seed: int) -> LabelledImages:
    """Return ``count`` images of ``data``, the classes in turn; fewer where there are fewer.

    Images of one colour calibrate nothing and are left out. Raises InputError for fewer samples than ``classes``, and
    DataError for images of another size or type, and where more than a hundredth of them is of one colour.
    """
    check_images(data, spec)
    if count < classes:
        raise InputError(f"{count} samples for {classes} classes; take at least one of each: --samples {classes}")
    chosen = data.take(balanced_sample(data.labels, count, seed=seed))
    flat = chosen.images.reshape(len(chosen), -1, 3)
    constant = (flat == flat[:, :1]).all(axis=(1, 2))
    if constant.sum() > TOLERATED_CONSTANT * len(chosen):
        raise DataError(
            f"{int(constant.sum())} of {len(chosen)} calibration images of {data.source} are of one colour "
            f"(at most {TOLERATED_CONSTANT:.0%} is tolerated); check the data set"
        )
    kept = chosen.take(np.flatnonzero(~constant))
    if len(kept) < classes:
        raise InputError(
            f"{data.source} has {len(kept)} images to calibrate with, fewer than its {classes} classes; use more"
        )
    return kept


def check_images(data: LabelledImages, spec: InputSpec) -> None:
    """Raise DataError unless the images are uint8 of the bundle's input size, with labels."""
    expected = (spec.height, spec.width, 3)
    if data.images.dtype != np.uint8 or data.images.ndim != 4 or data.images.shape[1:] != expected:
        shape = "x".join(map(str, data.images.shape[1:]))
        raise DataError(
            f"{data.source} has images of {shape} {data.images.dtype}, the bundle takes {spec.height}x{spec.width}x3 "
            "uint8; load it at the bundle's size"
        )
    if data.labels.shape != (len(data),) or not len(data):
        raise DataError(f"{data.source} has {len(data)} images and {data.labels.size} labels; one for each is needed")


def random_images(spec: InputSpec, classes: int, count: int, seed: int) -> LabelledImages:
    """Return noise for a network without data: only for those who ask for it, because its ranges are not real ones."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, spec.height, spec.width, 3), dtype=np.uint8)
    return LabelledImages(images, np.arange(count) % classes, "random noise")


def stream(data: LabelledImages, spec: InputSpec) -> Stream:
    """Return the images as normalised batches, made one at a time."""
    digest = hashlib.sha256(repr((data.images.shape, spec.mean, spec.std)).encode())
    digest.update(np.ascontiguousarray(data.images).data)
    return Stream(partial(_batches, data, spec), len(data), digest.hexdigest())


def _batches(data: LabelledImages, spec: InputSpec) -> Iterator[Images]:
    size = default_chunk(DEFAULT_PROVIDER, spec)
    for start in range(0, len(data), size):
        yield normalize(data.images[start : start + size], spec)
