"""``lisa:PATH``: the LISA traffic signs (Møgelmose et al. 2012): annotated frames, native crops, or arrays.

``?classes=14`` takes the relabelling of the study's code instead of all 47 classes. Crops are the annotation boxes
without margin. The official table has no test part; a track is one video, which may show several signs.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from edge_runtime.errors import DataError, unknown
from toolkit.data.arrays import as_split, find_parts, load_arrays
from toolkit.data.dataset import Images, Labels, Mask, Source, Split
from toolkit.data.reading import (
    File,
    Item,
    Request,
    Row,
    number_tracks,
    read_image,
    read_parts,
    read_table,
    require_folder,
)

TABLE = "allAnnotations.csv"
INDEX = "index.csv"
BOX = ("Upper left corner X", "Upper left corner Y", "Lower right corner X", "Lower right corner Y")
PAPER_TEST_SHARE = 0.16  # PROTOCOL: per class, the first int(0.16 n) rows of the table are test

# In the order of first appearance in the official table.
CLASSES_47 = (
    *("stop", "speedLimitUrdbl", "speedLimit25", "pedestrianCrossing", "speedLimit35", "turnLeft", "slow"),
    *("speedLimit15", "speedLimit45", "rightLaneMustTurn", "signalAhead", "keepRight", "laneEnds", "school"),
    *("merge", "addedLane", "rampSpeedAdvisory40", "rampSpeedAdvisory45", "curveRight", "speedLimit65"),
    *("truckSpeedLimit55", "thruMergeLeft", "speedLimit30", "stopAhead", "yield", "thruMergeRight", "dip"),
    *("schoolSpeedLimit25", "thruTrafficMergeLeft", "noRightTurn", "rampSpeedAdvisory35", "curveLeft"),
    *("rampSpeedAdvisory20", "noLeftTurn", "zoneAhead25", "zoneAhead45", "doNotEnter", "yieldAhead"),
    *("roundabout", "turnRight", "speedLimit50", "rampSpeedAdvisoryUrdbl", "rampSpeedAdvisory50"),
    *("speedLimit40", "speedLimit55", "doNotPass", "intersection"),
)
CLASSES_14 = (
    *("stop", "speedlimit", "pedestrianCrossing", "turnLeft", "slow", "signalAhead", "laneEnds", "school"),
    *("merge", "yield", "noRightTurn", "noLeftTurn", "roundabout", "turnRight"),
)
# The study's code leaves speedLimit35 (538 rows) out, probably by a slip; figures only compare if we do, too.
MERGED_LIMITS = ("15", "25", "30", "40", "45", "50", "55", "65")


def label_map(names: Sequence[str], merged: Mapping[str, str]) -> dict[str, int]:
    """Return {official tag: label} for all official tags that are in ``names`` or merged into one of them."""
    targets = {tag: merged.get(tag, tag) for tag in CLASSES_47}
    return {tag: names.index(name) for tag, name in targets.items() if name in names}


# Option value: label names, {official tag: label}.
LABELLINGS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "47": (CLASSES_47, label_map(CLASSES_47, {})),
    "14": (CLASSES_14, label_map(CLASSES_14, {f"speedLimit{limit}": "speedlimit" for limit in MERGED_LIMITS})),
}
DEFAULT_LABELLING = "47"


def read_lisa(request: Request) -> Source:
    """Read ``lisa:PATH`` in the first layout of LAYOUTS that fits."""
    choice = request.options.get("classes", DEFAULT_LABELLING)
    if choice not in LABELLINGS:
        raise unknown("number of LISA classes", choice, LABELLINGS)
    names, mapping = LABELLINGS[choice]
    for marker, suffix, read in LAYOUTS:
        if request.path.suffix == suffix or (request.path / marker).is_file():
            split, rows, skipped = read(request, mapping)
            test = partial(paper_test, request.path, mapping, rows)
            return Source(f"lisa{choice}", names, split, paper_test=test, skipped=skipped)
    require_folder(request.path)
    markers = ", ".join(marker for marker, _, _ in LAYOUTS)
    raise DataError(f"{request.path} is no LISA folder: it holds none of {markers}")


def paper_test(path: Path, mapping: Mapping[str, int], rows: Labels, rng: np.random.Generator) -> Mask:
    """Mark the images [N] that the study's code tests on; ``rows`` [N] counts the rows of the official table from 0.

    It needs that table, in or beside ``path``: shares count all of its rows, also those whose images are missing.
    """
    del rng  # this split is fixed
    tables = [folder / TABLE for folder in (path, path.parent) if (folder / TABLE).is_file()]
    if not tables:
        raise DataError(f"the paper's split of LISA counts rows of {TABLE}; put that file into {path.parent}")
    tags = [read_tag(row, "Annotation tag") for row in read_table(tables[0], ("Annotation tag",), ";")]
    if rows.max(initial=0) >= len(tags):
        raise DataError(
            f"{tables[0]} has {len(tags)} rows, but {path} refers to row {rows.max()}; use the official file"
        )
    return first_rows([mapping.get(tag) for tag in tags])[rows]


def first_rows(labels: Sequence[int | None]) -> Mask:
    """Mark, per label, the first int(0.16 n) of its n rows; rows without a label are never marked."""
    quota = {label: int(PAPER_TEST_SHARE * count) for label, count in Counter(labels).items()}
    marks = np.zeros(len(labels), bool)
    for row, label in enumerate(labels):
        marks[row] = label is not None and quota[label] > 0
        quota[label] -= 1
    return marks


def read_tag(row: Row, column: str) -> str:
    tag = row.text(column)
    if tag not in CLASSES_47:
        raise row.error(f"{tag!r} in column {column!r} is not one of the 47 LISA classes")
    return tag


def track_of(frame: str) -> str:
    """Return "folder/video" of a frame: ".../stop_1330545910.avi_image0.png" shows the video stop_1330545910.avi."""
    return f"{frame.split('/')[0]}/{Path(frame).name.rsplit('_image', 1)[0]}"


# Every reader returns the split, the row of the official table behind each image, and the damaged images it skipped.
Found = tuple[Split, Labels, tuple[str, ...]]


def read_items(items: Mapping[int, Item], request: Request) -> Found:
    """Read the images of {row: item}, in the order of the rows: the same in every layout."""
    rows = sorted(items)
    splits, skipped, kept = read_parts({"train": [items[row] for row in rows]}, request)
    return splits["train"], np.asarray(rows, np.int64)[kept["train"]], skipped


def read_frames(request: Request, mapping: Mapping[str, int]) -> Found:
    """Crop every annotation of ``allAnnotations.csv`` out of its frame."""
    table = request.path if request.path.is_file() else request.path / TABLE
    # Rows of one frame follow each other, and decoding a frame takes far longer than cropping it.
    read = lru_cache(maxsize=4)(read_image)
    rows = read_table(table, ("Filename", "Annotation tag", *BOX), ";")
    tagged = ((number, row, read_tag(row, "Annotation tag")) for number, row in enumerate(rows))
    items = {number: frame_item(row, mapping[tag], table.parent, read) for number, row, tag in tagged if tag in mapping}
    return read_items(items, request)


def frame_item(row: Row, label: int, root: Path, read: Callable[[File], Images]) -> Item:
    frame = row.file(root, "Filename")
    left, top, right, bottom = (row.integer(column) for column in BOX)
    if not (0 <= left < right and 0 <= top < bottom):
        raise row.error(f"box {left},{top},{right},{bottom} is empty or negative")

    def crop() -> Images:
        image = read(frame)
        height, width = image.shape[:2]
        if bottom > height or right > width:
            raise row.error(f"box {left},{top},{right},{bottom} leaves the frame of {width}x{height}")
        return image[top:bottom, left:right]

    return Item(label, crop, track_of(row.text("Filename")))


def read_crops(request: Request, mapping: Mapping[str, int]) -> Found:
    """Read native crops, in a folder or a zip file, listed by ``index.csv`` (file, row, label, frame)."""
    if not request.path.is_file():
        return read_index(request.path, request, mapping)
    try:
        with zipfile.ZipFile(request.path) as archive:
            return read_index(zipfile.Path(archive), request, mapping)
    except zipfile.BadZipFile as error:
        raise DataError(f"{request.path} is not a readable zip file ({error}); fetch it again") from error


def read_index(root: File, request: Request, mapping: Mapping[str, int]) -> Found:
    rows = read_table(root / INDEX, ("file", "row", "label", "frame"), ",")
    tagged = ((row, read_tag(row, "label")) for row in rows)
    items: dict[int, Item] = {}
    for row, tag in tagged:
        if tag in mapping:
            number = row.integer("row")
            if number in items or number < 0:
                raise row.error(f"row {number} is negative or was listed before")
            items[number] = crop_item(row, mapping[tag], root)
    return read_items(items, request)


def crop_item(row: Row, label: int, root: File) -> Item:
    return Item(label, partial(read_image, row.file(root, "file")), track_of(row.text("frame")))


def read_packed(request: Request, mapping: Mapping[str, int]) -> Found:
    """Read ``.npz`` files: images, labels (of the 47 classes), row, track. Training and test files are joined."""
    parts = []
    for path in find_parts(request.path).values():
        arrays = load_arrays(path, ("images", "labels", "row", "track"))
        parts.append((as_split(path, arrays, len(CLASSES_47), request.size), arrays["row"], arrays["track"]))
    images = np.concatenate([split.images for split, _, _ in parts])
    labels = np.asarray([mapping.get(tag, -1) for tag in CLASSES_47])[np.concatenate([s.labels for s, _, _ in parts])]
    rows = np.concatenate([row for _, row, _ in parts]).astype(np.int64)
    tracks = number_tracks(np.concatenate([track for _, _, track in parts]).tolist())
    order = np.argsort(rows, kind="stable")
    order = order[labels[order] >= 0]
    return Split(images, labels, tracks).take(order), rows[order], ()


# The file that tells the layout of a folder, the suffix of a file that is it, and the reader.
LAYOUTS: tuple[tuple[str, str, Callable[[Request, Mapping[str, int]], Found]], ...] = (
    (INDEX, ".zip", read_crops),
    ("train.npz", ".npz", read_packed),
    (TABLE, ".csv", read_frames),
)
