"""Reading image files and tables: what every data set that consists of files has in common."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edge_runtime.errors import DataError, InputError
from edge_runtime.image_set import TOLERATED_DAMAGE
from edge_runtime.preprocess import load_image, resize
from toolkit.data.dataset import Images, Labels, Split

File = Path | zipfile.Path
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What a reader is asked for: where, the images' side length, options, seed; ``progress(done, total)`` is told."""

    path: Path
    size: int
    options: Mapping[str, str]
    seed: int = 0
    progress: Progress | None = None


@dataclass(frozen=True)
class Item:
    """One image still to be read. ``load`` returns uint8 [H, W, 3], or raises InputError naming the damaged image."""

    label: int
    load: Callable[[], Images]
    track: str | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table; errors name the file and the line (the header is line 1)."""

    path: File
    line: int
    fields: Mapping[str, str | None]

    def text(self, column: str) -> str:
        value = self.fields[column]
        if not value:
            raise self.error(f"nothing in column {column!r}")
        return value

    def integer(self, column: str) -> int:
        try:
            return int(self.text(column))
        except ValueError:
            raise self.error(f"{self.text(column)!r} in column {column!r} is not a whole number") from None

    def label(self, column: str, classes: int) -> int:
        """Return the label in ``column``; it must be one of 0 .. classes - 1."""
        label = self.integer(column)
        if not 0 <= label < classes:
            raise self.error(f"label {label} is outside 0 .. {classes - 1}")
        return label

    def file(self, root: File, column: str) -> File:
        """Return the file below ``root`` that ``column`` names."""
        name = PurePosixPath(self.text(column))
        if name.is_absolute() or ".." in name.parts:
            raise self.error(f"{str(name)!r} in column {column!r} leads out of the data set")
        path = root / str(name)
        if not path.is_file():
            raise self.error(f"names a file that does not exist: {path}")
        return path

    def error(self, what: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}: {what}; correct or remove the row")


def read_table(path: File, columns: Sequence[str], delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV file. Raises DataError where it is missing, not text, or lacks one of ``columns``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} has no column {missing[0]!r} (separated by {delimiter!r}); use the official file"
                )
            for fields in reader:
                yield Row(path, reader.line_num, fields)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; it belongs to the data set") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file ({error}); use the official file") from error


def require_folder(path: Path) -> Path:
    """Return ``path`` if it is a folder that holds anything."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path of the data set")
    if not path.is_dir():
        raise DataError(f"{path} is a file, but a folder is needed; check the path of the data set")
    if not any(path.iterdir()):
        raise DataError(f"{path} is empty; check the path of the data set")
    return path


def read_image(file: File) -> Images:
    """Read an image, also inside a zip file, as uint8 [H, W, 3]. Raises InputError naming the damaged image."""
    if isinstance(file, Path):
        return load_image(file)
    try:
        return load_image(file.read_bytes())
    except (InputError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: {error}") from error


def class_folders(folder: Path) -> list[Path]:
    """Return the class folders below ``folder``: names of digits by value, then the others by name."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    return sorted(
        found, key=lambda path: (not path.name.isdigit(), int(path.name) if path.name.isdigit() else 0, path.name)
    )


def read_parts(
    parts: Mapping[str, Sequence[Item]], request: Request
) -> tuple[dict[str, Split], tuple[str, ...], dict[str, Labels]]:
    """Read and resize the images of every part.

    Returns the splits, a description of every damaged image that was skipped, and per part the indices of the items
    that were read. Raises DataError where more than TOLERATED_DAMAGE of all images are damaged.
    """
    total = sum(map(len, parts.values()))
    skipped: list[str] = []
    splits: dict[str, Split] = {}
    read: dict[str, Labels] = {}
    done = 0
    for part, items in parts.items():
        images = np.empty((len(items), request.size, request.size, 3), np.uint8)
        kept: list[int] = []
        for index, item in enumerate(items):
            try:
                images[len(kept)] = resize(item.load(), request.size, request.size)
                kept.append(index)
            except InputError as error:
                skipped.append(str(error))
            done += 1
            if request.progress is not None:
                request.progress(done, total)
        read[part] = np.asarray(kept, np.int64)
        splits[part] = Split(images[: len(kept)], *labels_and_tracks([items[index] for index in kept]))
    refuse_damage(skipped, total, request.path)
    return splits, tuple(skipped), read


def labels_and_tracks(items: Sequence[Item]) -> tuple[Labels, Labels | None]:
    """Return labels [N] and numbered tracks [N]; no tracks where not every item has one."""
    labels = np.asarray([item.label for item in items], np.int64)
    names = [item.track for item in items if item.track is not None]
    return labels, number_tracks(names) if names and len(names) == len(items) else None


def number_tracks(names: Sequence[str]) -> Labels:
    """Number the distinct track names in sorted order: int64 [N]."""
    return np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1).astype(np.int64)


def refuse_damage(skipped: Sequence[str], total: int, path: Path) -> None:
    if len(skipped) > TOLERATED_DAMAGE * total:
        raise DataError(
            f"{len(skipped)} of {total} images of {path} cannot be read (at most {TOLERATED_DAMAGE:.0%} is tolerated); "
            f"first: {skipped[0]}"
        )
