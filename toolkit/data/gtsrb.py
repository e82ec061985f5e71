"""``gtsrb:PATH``: the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012) in the layouts that circulate.

The whole image is used, not the sign's box, as in the study. Tracks are (class, track) pairs, taken from file names.
Images are ordered by official name, so that the same images give the same digest in every layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from edge_runtime.errors import DataError
from toolkit.data.arrays import as_split, find_parts, load_arrays
from toolkit.data.dataset import Mask, Source, Split
from toolkit.data.reading import (
    File,
    Item,
    Request,
    Row,
    class_folders,
    read_image,
    read_parts,
    read_table,
    require_folder,
)

LABELS = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no overtaking",
    "no overtaking by trucks",
    "priority at next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "double bend",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic lights",
    "pedestrians",
    "children",
    "bicycles",
    "ice or snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking by trucks",
)
PAPER_TEST_SHARE = 0.2  # PROTOCOL: the authors split the training folder 80/20 at random, image by image

TRAINING_FOLDERS = ("Final_Training/Images", "Training")  # the second: the smaller archive of the 2011 competition
TEST_FOLDER = "Final_Test/Images"
TEST_TABLES = ("Final_Test/GT-final_test.csv", "Final_Test/Images/GT-final_test.csv", "GT-final_test.csv")
TRACK_NAME = re.compile(r"(\d+)[_/](\d+)_(\d+)\.\w+$")  # class, track, frame: "00020/00001_00029.ppm"

Parts = dict[str, list[Item]]


def read_gtsrb(request: Request) -> Source:
    """Read ``gtsrb:PATH`` in the first layout of LAYOUTS that fits."""
    for root in (request.path, request.path / "GTSRB"):
        for layout, list_items in LAYOUTS.items():
            if (root / layout).exists():
                splits, skipped, _ = read_parts(list_items(root), request)
                return as_source(splits, skipped)
    return read_packed(request)


def read_packed(request: Request) -> Source:
    """Read an ``.npz`` file with the member ``official_name`` ("000CC/TTTTT_FFFFF.ppm"), or a folder of such files."""
    if request.path.is_dir() and not any(request.path.glob("*.npz")):
        require_folder(request.path)
        raise DataError(f"{request.path} is no GTSRB folder: it holds none of {', '.join(LAYOUTS)}, train.npz")
    return as_source({part: read_part(part, path, request.size) for part, path in find_parts(request.path).items()}, ())


def read_part(part: str, path: Path, size: int) -> Split:
    arrays = load_arrays(path, ("images", "labels", "official_name"))
    names = arrays["official_name"].astype(str).reshape(-1)
    if part == "train":
        arrays["track"] = np.asarray([track_of(name, path) for name in names.tolist()])
    return as_split(path, arrays, len(LABELS), size).take(np.argsort(names, kind="stable"))


def as_source(splits: dict[str, Split], skipped: tuple[str, ...]) -> Source:
    train = splits["train"]

    def paper_test(rng: np.random.Generator) -> Mask:
        chosen = np.zeros(len(train), bool)
        chosen[rng.permutation(len(train))[: int(PAPER_TEST_SHARE * len(train))]] = True
        return chosen

    return Source("gtsrb", LABELS, train, splits.get("validation"), splits.get("test"), paper_test, skipped)


def track_of(name: str, source: File) -> str:
    """Return "class/track" of an official file name, or of Kaggle's "000CC_TTTTT_FFFFF.png"."""
    found = TRACK_NAME.search(name)
    if found is None:
        raise DataError(f"{source}: {name!r} is not an official GTSRB file name (class, track_frame.ppm)")
    return f"{int(found[1])}/{found[2]}"


def official_items(root: Path, training: str) -> Parts:
    """List the official layout: one folder and one table per class, and a table of the test images."""
    train = []
    for folder in class_folders(root / training):
        label, table = class_of(folder), folder / f"GT-{folder.name}.csv"
        rows = read_table(table, ("Filename", "ClassId"), ";")
        found = [official_item(row, folder) for row in by_file_name(rows, "Filename")]
        if not found:
            raise DataError(f"class folder {folder} holds no images; add some or remove it")
        if any(item.label != label for item in found):
            raise DataError(f"{table} lists an image of another class than {label}; use the official file")
        train += found
    if not train:
        raise DataError(f"{root / training} holds no class folders (00000, 00001, ...)")
    return {"train": train, **official_test_items(root)}


def by_file_name(rows: Iterable[Row], column: str) -> list[Row]:
    return sorted(rows, key=lambda row: PurePosixPath(row.text(column)).name)


def class_of(folder: Path) -> int:
    if not folder.name.isdigit() or int(folder.name) >= len(LABELS):
        raise DataError(f"{folder} is no GTSRB class folder (00000 .. {len(LABELS) - 1:05}); remove it")
    return int(folder.name)


def official_item(row: Row, folder: Path) -> Item:
    path = row.file(folder, "Filename")
    label = row.label("ClassId", len(LABELS))
    return Item(label, partial(read_image, path), track_of(f"{folder.name}/{path.name}", row.path))


def official_test_items(root: Path) -> Parts:
    folder = root / TEST_FOLDER
    if not folder.is_dir():
        return {}
    tables = [root / name for name in TEST_TABLES if (root / name).is_file()]
    if not tables:
        raise DataError(f"{folder} has no labels; put GT-final_test.csv (with ClassId) into {folder.parent}")
    rows = by_file_name(read_table(tables[0], ("Filename", "ClassId"), ";"), "Filename")
    found = [(row.label("ClassId", len(LABELS)), row.file(folder, "Filename")) for row in rows]
    return {"test": [Item(label, partial(read_image, path)) for label, path in found]}


def kaggle_items(root: Path) -> Parts:
    """List Kaggle's layout: ``Train.csv`` and ``Test.csv`` with the columns ``ClassId`` and ``Path``."""
    tables = [table for table in (root / "Train.csv", root / "Test.csv") if table.is_file()]
    parts = {
        table.stem.lower(): [kaggle_item(row, root) for row in by_file_name(kaggle_rows(table), "Path")]
        for table in tables
    }
    if not parts["train"]:
        raise DataError(f"{root / 'Train.csv'} lists no images; use the original file")
    return parts


def kaggle_rows(table: Path) -> Iterator[Row]:
    """Some copies prefix the paths with another folder ("/code/Train/20/..."); what counts begins at Train or Test."""
    for row in read_table(table, ("ClassId", "Path"), ","):
        _, found, name = row.text("Path").rpartition(f"{table.stem}/")
        yield replace(row, fields={**row.fields, "Path": found + name})


def kaggle_item(row: Row, root: Path) -> Item:
    path = row.file(root, "Path")
    track = track_of(path.name, row.path) if row.path.stem == "Train" else None
    return Item(row.label("ClassId", len(LABELS)), partial(read_image, path), track)


# What tells the layout, and how its images are listed.
LAYOUTS: dict[str, Callable[[Path], Parts]] = {
    **{folder: partial(official_items, training=folder) for folder in TRAINING_FOLDERS},
    "Train.csv": kaggle_items,
}
