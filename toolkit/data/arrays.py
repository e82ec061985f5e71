"""Data sets in ``.npz`` files: ``images`` uint8 [N, H, W, 3] RGB and ``labels`` int [N], read without pickles.

``npz:PATH`` is one such file, or a folder with ``train.npz`` and, if wanted, ``validation.npz`` and ``test.npz``.
Optional members of the training file: ``names`` (text [K], of the labels), ``track`` [N] (near-duplicates share one).
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.preprocess import describe, resize
from toolkit.data.dataset import Images, Source, Split
from toolkit.data.reading import Request, number_tracks, require_folder

Arrays = dict[str, NDArray[Any]]

# In a folder; the first that exists is taken.
PART_FILES = {
    "train": ("train.npz",),
    "validation": ("validation.npz", "val.npz"),
    "test": ("test.npz", "test_sample.npz"),
}


def read_npz(request: Request) -> Source:
    """Read ``npz:PATH``."""
    files = find_parts(request.path)
    arrays = {part: load_arrays(path, ("images", "labels"), ("names", "track")) for part, path in files.items()}
    names = label_names(files["train"], arrays["train"])
    splits = {part: as_split(files[part], arrays[part], len(names), request.size) for part in files}
    return Source(request.path.stem, names, splits["train"], splits.get("validation"), splits.get("test"))


def find_parts(path: Path) -> dict[str, Path]:
    """Return the ``.npz`` file of each part that exists: one file is the training part, a folder may hold all three."""
    if path.is_file():
        return {"train": path}
    require_folder(path)
    found = {part: [path / name for name in names if (path / name).is_file()] for part, names in PART_FILES.items()}
    if not found["train"]:
        raise DataError(f"{path} holds no train.npz; name the .npz file itself, or choose another kind of data set")
    return {part: files[0] for part, files in found.items() if files}


def load_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Arrays:
    """Read the named members, and nothing else, of an ``.npz`` file.

    Raises DataError for a file that is missing, damaged, lacks a required member, or holds pickled objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is a single array, not an .npz file; save it with numpy.savez")
        with loaded as file:
            missing = [name for name in required if name not in file.files]
            if missing:
                raise DataError(f"{path} has no array {missing[0]!r}; it holds: {', '.join(file.files) or 'nothing'}")
            return {name: file[name] for name in (*required, *optional) if name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path of the data set") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz file of plain arrays ({error}); save it again") from error


def label_names(path: Path, arrays: Arrays) -> tuple[str, ...]:
    """Return the member ``names``, or "0", "1", ... up to the largest label."""
    check_labels(path, arrays["labels"])
    names = arrays.get("names")
    if names is None:
        return tuple(str(label) for label in range(int(arrays["labels"].max(initial=0)) + 1))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(f"{path}: 'names' is {describe(names)}, but text [K] is needed")
    return tuple(names.tolist())


def as_split(path: Path, arrays: Arrays, classes: int, size: int) -> Split:
    """Check shapes, types and label range, and resize to ``size``."""
    images, labels, track = arrays["images"], arrays["labels"], arrays.get("track")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise DataError(f"{path}: 'images' is {describe(images)}, but uint8 [N, H, W, 3] is needed")
    check_labels(path, labels)
    for name, array in (("labels", labels), ("track", track)):
        if array is not None and array.shape != images.shape[:1]:
            raise DataError(f"{path}: {name!r} is {describe(array)}, but there are {len(images)} images")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is outside 0 .. {classes - 1}")
    tracks = None if track is None else number_tracks(track.astype(str).tolist())
    return Split(resize_all(images, size), labels.astype(np.int64), tracks)


def check_labels(path: Path, labels: NDArray[Any]) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: 'labels' is {describe(labels)}, but whole numbers [N] are needed")


def resize_all(images: Images, size: int) -> Images:
    """Resize uint8 [N, H, W, 3] to [N, size, size, 3]."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([resize(image, size, size) for image in images])
