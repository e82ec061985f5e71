"""TensorRT's calibration cache, for those who still quantise implicitly: a step for each tensor, no Q/DQ pairs.

TensorRT 8.x and 10.x read and write it; 11 knows explicit pairs alone. The format is plain text: a line
``TRT-<version>-<calibrator>``, then ``<tensor>: <step>`` with the step, largest value / 127, as the eight hexadecimal
digits of its IEEE 754 single, most significant first.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from calibration.ranges import FORMAT, Range, Ranges
from calibration.thresholds import LEVELS
from edge_runtime.errors import InputError
from edge_runtime.folders import new_file

SUFFIX = ".cache"
# What readers compare with their own is the calibrator's kind; they accept any version of the same major number.
HEADER = "TRT-100300-EntropyCalibration2"
FIRST_LINE = re.compile(r"TRT-[0-9]+-[A-Za-z0-9]+")
ENTRY = re.compile(r"(?P<tensor>.+): (?P<step>[0-9a-fA-F]{8})")


def to_cache(ranges: Ranges) -> str:
    """Return the cache's text; tensors that are 0 for every image have no step and are left out."""
    lines = [
        f"{name}: {struct.pack('>f', found.threshold / LEVELS).hex()}"
        for name, found in ranges.tensors.items()
        if found.threshold > 0
    ]
    return "\n".join([HEADER, *lines]) + "\n"


def from_cache(text: str, where: str) -> Ranges:
    """Return the ranges that a cache says; raises InputError for text that is none."""
    first, *lines = text.splitlines() or [""]
    if not FIRST_LINE.fullmatch(first.strip()):
        raise InputError(f"{where} is no TensorRT calibration cache: its first line is {first[:40]!r}")
    tensors = {}
    for number, line in enumerate(lines, start=2):
        entry = ENTRY.fullmatch(line.strip())
        if entry is None:
            if line.strip():
                raise InputError(f"{where}, line {number}: {line[:60]!r} is not a tensor and eight hexadecimal digits")
            continue
        (step,) = struct.unpack(">f", bytes.fromhex(entry["step"]))
        if not 0 < step < float("inf"):
            raise InputError(f"{where}, line {number}: the step of {entry['tensor']!r} is {step}; calibrate again")
        tensors[entry["tensor"]] = Range(threshold=step * LEVELS)
    return Ranges(format=FORMAT, method=f"TensorRT ({first.strip()})", tensors=tensors)


def write_cache(ranges: Ranges, path: Path, *, force: bool = False) -> None:
    """Write the ranges as a calibration cache; refuses an existing file unless ``force``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, force=force) as temporary:
        temporary.write_text(to_cache(ranges), encoding="utf-8")


def read_cache(path: Path) -> Ranges:
    """Read a calibration cache; raises InputError for a file that is none."""
    try:
        return from_cache(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no TensorRT calibration cache: it is not text") from error
