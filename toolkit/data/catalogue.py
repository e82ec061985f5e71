"""The one table of data sets, and ``load``: from "gtsrb:PATH" to a data set that is split and ready."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import InputError, unknown
from toolkit.data.arrays import read_npz
from toolkit.data.dataset import MEAN, STD, Channels, Dataset, Source, digest
from toolkit.data.folder import read_folder
from toolkit.data.gtsrb import read_gtsrb
from toolkit.data.lisa import read_lisa
from toolkit.data.reading import Progress, Request
from toolkit.data.rendered import read_rendered
from toolkit.data.splits import divide, validation_share

DEFAULT_SIZE = 32
DEFAULT_SPLIT = "track"


@dataclass(frozen=True)
class Kind:
    """How one kind of data set is read; ``options`` may follow its spec: "lisa:PATH?classes=14"."""

    read: Callable[[Request], Source]
    needs_path: bool
    about: str
    options: tuple[str, ...] = ()


DATASETS: dict[str, Kind] = {
    "rendered": Kind(read_rendered, False, "signs drawn at run time", ("train", "validation", "test")),
    "gtsrb": Kind(read_gtsrb, True, "GTSRB: the official folders, Kaggle's, or .npz"),
    "lisa": Kind(read_lisa, True, "LISA: official table with frames, native crops, or .npz", ("classes",)),
    "folder": Kind(read_folder, True, "one folder of images per class, perhaps below train, validation, test"),
    "npz": Kind(read_npz, True, ".npz with images [N, H, W, 3] and labels [N], or a folder of train, test .npz"),
}
COMMON_OPTIONS = ("mean", "std")  # of every kind: "?mean=0.5,0.5,0.5&std=0.25,0.25,0.25"


@dataclass(frozen=True)
class Spec:
    """A data set as users write it: ``KIND``, ``KIND:PATH``, either followed by ``?option=value&...``."""

    kind: str
    path: str
    options: Mapping[str, str]


def load(
    spec: str,
    *,
    size: int = DEFAULT_SIZE,
    split: str = DEFAULT_SPLIT,
    seed: int = 0,
    validation: float | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read the data set ``spec``, resize to ``size`` x ``size``, and divide it by the preset ``split`` of SPLITS.

    ``seed`` draws the split (and the rendered signs); ``validation`` is the share of training images held out (None:
    the preset's); ``progress(done, total)`` is called while images are read. Raises InputError for an unknown name,
    DataError for a data set that is missing, empty, damaged or inconsistent.
    """
    parsed, share = parse(spec), validation_share(split, validation)  # before anything is read
    if size < 8:
        raise InputError(f"image size {size} is too small; use at least 8 pixels")
    mean, std = (channels(parsed, *default) for default in (("mean", MEAN), ("std", STD)))
    request = Request(Path(parsed.path).expanduser(), size, parsed.options, seed, progress)
    source = DATASETS[parsed.kind].read(request)
    parts = divide(source, split, share, np.random.default_rng(seed))
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", source.name).strip("_.") or parsed.kind
    return Dataset(name, spec, source.labels, *parts, digest(source.labels, *parts), mean, std, source.skipped)


def parse(spec: str) -> Spec:
    """Take a spec apart. Raises InputError for an unknown kind or option, and where a path is missing or too much."""
    head, mark, tail = spec.rpartition("?")
    if not mark or "=" not in tail or "/" in tail:
        head, tail = spec, ""  # a question mark that belongs to the path
    kind, colon, path = head.partition(":")
    if kind not in DATASETS:
        raise unknown("data set", kind, DATASETS)
    if DATASETS[kind].needs_path and not path:
        raise InputError(f"data set {kind!r} needs a path: {kind}:PATH")
    if colon and not DATASETS[kind].needs_path:
        raise InputError(f"data set {kind!r} takes no path, but {path!r} was given; write {kind}")
    options = {}
    for pair in filter(None, tail.split("&")):
        name, equals, value = pair.partition("=")
        if name not in (*DATASETS[kind].options, *COMMON_OPTIONS):
            raise unknown(f"option of data set {kind!r}", name, (*DATASETS[kind].options, *COMMON_OPTIONS))
        if not equals or not value:
            raise InputError(f"option {name!r} of data set {kind!r} has no value: write {name}=VALUE")
        options[name] = value
    return Spec(kind, path, options)


def channels(spec: Spec, name: str, default: Channels) -> Channels:
    """Return the option ``name`` as three positive numbers, or ``default``."""
    if name not in spec.options:
        return default
    try:
        red, green, blue = (float(number) for number in spec.options[name].split(","))
    except ValueError:
        raise InputError(f"{name}={spec.options[name]!r} is not three numbers such as 0.5,0.5,0.5") from None
    if not all(0 < value <= 1 for value in (red, green, blue)):
        raise InputError(
            f"{name}={spec.options[name]!r} must lie in 0 .. 1 (pixel values are scaled to it) and not be 0"
        )
    return red, green, blue
