"""Where signs stand in the frames of a source: a CSV file or JSON lines, made to fit each frame.

CSV: a header with ``frame,x0,y0,x1,y1`` and, where it is known, ``label``. JSON lines: one object per box with the same
names. Coordinates are pixels, ``x1`` and ``y1`` exclusive; fractions are rounded.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime.errors import InputError
from edge_runtime.sources.frame import Box

MAX_COORDINATE = 1 << 24  # no picture is that wide; what lies beyond is not a pixel
REQUIRED = ("frame", "x0", "y0", "x1", "y1")
COLUMNS = (*REQUIRED, "label")


@dataclass(frozen=True)
class Corners:
    """A box as it was given, before it meets its frame: it may be empty, lie outside, or hold NaN."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str | None = None

    def __str__(self) -> str:
        return f"{self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"


BoxTable = dict[str, list[Corners]]  # frame id -> its boxes


def fit(corners: Sequence[Corners], width: int, height: int) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Return the boxes inside a frame of ``width`` x ``height`` pixels, and a line for each clipped or dropped one."""
    boxes: list[Box] = []
    problems: list[str] = []
    for each in dict.fromkeys(corners):
        if not all(map(math.isfinite, (each.x0, each.y0, each.x1, each.y1))):
            problems.append(f"box {each} is not finite; dropped")
            continue
        x0, y0, x1, y1 = (math.floor(value + 0.5) for value in (each.x0, each.y0, each.x1, each.y1))
        if x1 <= x0 or y1 <= y0:
            problems.append(f"box {each} is empty; dropped")
            continue
        inside = Box(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height), each.label)
        if inside.x1 <= inside.x0 or inside.y1 <= inside.y0:
            problems.append(f"box {each} lies outside the frame of {width} x {height}; dropped")
            continue
        if (inside.x0, inside.y0, inside.x1, inside.y1) != (x0, y0, x1, y1):
            problems.append(f"box {each} reaches out of the frame of {width} x {height}; clipped")
        boxes.append(inside)
    if len(set(corners)) < len(corners):
        problems.append(f"{len(corners) - len(set(corners))} boxes are given twice; dropped")
    return tuple(boxes), tuple(problems)


def read_boxes(path: Path) -> BoxTable:
    """Read a file of boxes by its name's ending (see READERS), in the file's order.

    Raises InputError for a file that is missing, of another kind, or wrong in any line, naming line and value.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: boxes come as {', '.join(READERS)}; give the file one of these endings")
    table: BoxTable = {}
    try:
        for frame_id, corners in reader(path):
            table.setdefault(frame_id, []).append(corners)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path of the boxes") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    if not table:
        raise InputError(f"{path} holds no boxes; add some or leave it out")
    return table


def read_csv(path: Path) -> Iterator[tuple[str, Corners]]:
    """Yield frame id and corners of every row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            check_header(header, path)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise _wrong(path, rows.line_num, f"{len(row)} values for {len(header)} columns")
                yield parse_row(dict(zip(header, row, strict=True)), path, rows.line_num)
        except csv.Error as error:
            raise _wrong(path, rows.line_num, str(error)) from error


def check_header(header: list[str], path: Path) -> None:
    """Raise InputError unless the columns are those of COLUMNS, in any order, ``label`` optional."""
    missing = [name for name in REQUIRED if name not in header]
    if missing or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        found = ",".join(header)
        raise InputError(f"{path}, line 1: the header is {found[:200]!r}; it must be {','.join(REQUIRED)}[,label]")


def parse_row(fields: dict[str, str], path: Path, line: int) -> tuple[str, Corners]:
    """Return frame id and corners of one row of text; an empty label is none."""
    values: dict[str, float] = {}
    for name in REQUIRED[1:]:
        try:
            values[name] = float(fields[name])
        except ValueError:
            raise _wrong(path, line, f"{name} is {fields[name][:40]!r}, no number") from None
    return _checked(fields["frame"], values, fields.get("label") or None, path, line)


class _JsonBox(msgspec.Struct, forbid_unknown_fields=True):
    frame: str | int
    x0: float
    y0: float
    x1: float
    y1: float
    label: str | None = None


def read_json_lines(path: Path) -> Iterator[tuple[str, Corners]]:
    """Yield frame id and corners of every line; a number as frame stands for its digits."""
    decoder = msgspec.json.Decoder(_JsonBox)
    with path.open("rb") as file:
        for line, data in enumerate(file, 1):
            data = data.removeprefix(codecs.BOM_UTF8) if line == 1 else data
            if not data.strip():
                continue
            try:
                box = decoder.decode(data)
            except (msgspec.DecodeError, RecursionError) as error:
                raise _wrong(path, line, f"{error}, in {data.strip()[:60].decode(errors='replace')!r}") from error
            values = {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1}
            yield _checked(str(box.frame), values, box.label, path, line)


def _checked(frame: str, values: dict[str, float], label: str | None, path: Path, line: int) -> tuple[str, Corners]:
    if not frame:
        raise _wrong(path, line, "no frame is named")
    for name, value in values.items():
        if not abs(value) <= MAX_COORDINATE:  # NaN as well
            raise _wrong(path, line, f"{name} is {value}, no pixel")
    return frame, Corners(**values, label=label)


def _wrong(path: Path, line: int, what: str) -> InputError:
    return InputError(f"{path}, line {line}: {what}; correct or remove the line")


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Corners]]]] = {
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}
