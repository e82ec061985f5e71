"""The images that a bundle is audited with: its own audit set, a folder of image files, or an ``.npz``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle, load_arrays
from edge_runtime.errors import BundleError, DataError, InputError, unknown
from edge_runtime.preprocess import describe, load_image, resize

IMAGE_SUFFIXES = frozenset((".ppm", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"))
TOLERATED_DAMAGE = 0.01  # share of unreadable images that is skipped and reported; beyond it the set is refused
AUDIT_SET_SOURCE = "audit set of the bundle"


@dataclass(frozen=True)
class ImageSet:
    """N images of the bundle's input size: ``images`` uint8 [N, H, W, 3], ``labels`` int64 [N] or None.

    ``source`` says where they come from; ``skipped`` holds one line per unreadable image.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    source: str
    skipped: tuple[str, ...] = ()

    def limited(self, limit: int | None, seed: int) -> ImageSet:
        """Return at most ``limit`` images, drawn at random by ``seed``, in their order; raises InputError below 1."""
        if limit is None:
            return self
        if limit < 1:
            raise InputError(f"limit is {limit}; audit at least 1 image, or leave it out to take all")
        if limit >= len(self.images):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.images), limit, replace=False))
        labels = None if self.labels is None else self.labels[chosen]
        return ImageSet(self.images[chosen], labels, self.source, self.skipped)


def load_image_set(bundle: Bundle, source: str | os.PathLike[str] | None = None) -> ImageSet:
    """Read the images of ``source``, resized to the bundle's input; None means the bundle's own audit set.

    A folder of image files is unlabelled; one folder of images per class is labelled, each named after a label or a
    class number; an ``.npz`` holds ``images`` uint8 [N, H, W, 3] and, if labelled, ``labels`` int [N].

    Raises DataError for a source that is missing, empty, damaged or labelled with unknown classes, BundleError for a
    bundle without audit set.
    """
    if source is None:
        own = bundle.audit_set()
        if not len(own.images):
            raise BundleError(f"the audit set of {bundle.path} is empty; name a folder or an .npz to audit with")
        return ImageSet(own.images, own.labels, AUDIT_SET_SOURCE)
    path = Path(source)
    if path.is_dir():
        return read_folder(path, bundle)
    if not path.is_file():
        raise DataError(f"{path} does not exist; name a folder of images or an .npz")
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path} is neither a folder of images nor an .npz; name one of these")
    return read_npz(path, bundle)


def read_folder(folder: Path, bundle: Bundle) -> ImageSet:
    """Read image files: directly in ``folder`` (unlabelled), or in one folder per class."""
    files: list[Path] = list(image_files(folder))
    classes: list[int] | None = None
    below = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if not files and below:
        pairs = [(file, class_of(entry, bundle)) for entry in below for file in image_files(entry)]
        files, classes = [file for file, _ in pairs], [label for _, label in pairs]
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path")
    images, kept, skipped = read_files(files, bundle)
    if len(skipped) > TOLERATED_DAMAGE * len(files):
        raise DataError(
            f"{len(skipped)} of {len(files)} images of {folder} cannot be read (at most {TOLERATED_DAMAGE:.0%} is "
            f"tolerated); first: {skipped[0]}"
        )
    labels = None if classes is None else np.asarray(classes, np.int64)[kept]
    return ImageSet(images, labels, str(folder), tuple(skipped))


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files of one folder in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def class_of(folder: Path, bundle: Bundle) -> int:
    """Return the class that a folder stands for: that of its name, or the number that its name is."""
    name = folder.name
    if name in bundle.labels:
        return bundle.labels.index(name)
    if name.isdigit() and int(name) < len(bundle.labels):
        return int(name)
    raise DataError(f"{folder}: {unknown('class', name, bundle.labels)}; name the folder after a label or its number")


def read_files(files: list[Path], bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Return the images that can be read, resized, the indices of their files, and a line for each of the others."""
    spec = bundle.manifest.input
    images: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    skipped: list[str] = []
    for index, file in enumerate(files):
        try:
            images.append(resize(load_image(file), spec.height, spec.width))
        except InputError as error:
            skipped.append(str(error))
        else:
            kept.append(index)
    shape = (-1, spec.height, spec.width, 3)
    return np.asarray(images, np.uint8).reshape(shape), np.asarray(kept, np.int64), skipped


def read_npz(path: Path, bundle: Bundle) -> ImageSet:
    """Read ``images`` and, where there are any, ``labels``."""
    arrays = load_arrays(path.read_bytes(), str(path), DataError)
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None:
        raise DataError(f"{path} holds no array 'images' (it holds {', '.join(sorted(arrays)) or 'nothing'}); add it")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise DataError(f"{path}: 'images' is {describe(images)}; expected RGB uint8 [N, H, W, 3] with N >= 1")
    spec = bundle.manifest.input
    resized = np.stack([resize(image, spec.height, spec.width) for image in images.astype(np.uint8, copy=False)])
    return ImageSet(resized, None if labels is None else check_labels(labels, len(images), path, bundle), str(path))


def check_labels(labels: NDArray[np.generic], count: int, path: Path, bundle: Bundle) -> NDArray[np.int64]:
    """Return ``labels`` as int64 [count]; raises DataError for another type, shape or range."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(f"{path}: 'labels' is {describe(labels)}; expected integers [{count}]")
    numbers = labels.astype(np.int64)
    if not 0 <= numbers.min() <= numbers.max() < len(bundle.labels):
        raise DataError(
            f"{path}: labels run from {numbers.min()} to {numbers.max()}, the bundle's classes are "
            f"0..{len(bundle.labels) - 1}; use images of the bundle's classes"
        )
    return numbers
