"""What ``--source`` may name, and how each kind is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.image_set import IMAGE_SUFFIXES
from edge_runtime.sources.boxed import BoxedSource, CroppedSource, parse_crop
from edge_runtime.sources.boxes import read_boxes
from edge_runtime.sources.frame import Source

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"))


@dataclass(frozen=True)
class Kind:
    """A kind of source: how a user names it, whether a specification is one, and what opens it."""

    usage: str
    fits: Callable[[str], bool]
    open: Callable[[str], Source]


def _suffix(spec: str) -> str:
    return Path(spec).suffix.lower()


def is_folder(spec: str) -> bool:
    """Return whether there is such a folder."""
    return os.path.isdir(spec)


def open_images(spec: str) -> Source:
    """Open a folder of images or one image."""
    from edge_runtime.sources.folder import FolderSource

    return FolderSource(existing(spec))


def is_image(spec: str) -> bool:
    """Return whether the name is that of an image file."""
    return _suffix(spec) in IMAGE_SUFFIXES


# Asked in this order; a folder may have any name.
KINDS: dict[str, Kind] = {
    "folder": Kind("a folder of images", is_folder, open_images),
    "image": Kind("an image (.png, .jpg, ...)", is_image, open_images),
}


def existing(spec: str) -> Path:
    """Return the path; raises InputError where nothing is there."""
    path = Path(spec)
    if not path.exists():
        raise InputError(f"{spec} does not exist; check the path")
    return path


def open_source(spec: str, *, boxes: str | None = None, crop: str | None = None, topic: str | None = None) -> Source:
    """Open what ``spec`` names; see KINDS.

    ``boxes`` names a file of boxes (``boxes.READERS``), ``crop`` the same part of every frame (``boxed.parse_crop``);
    without either the whole frame is meant.

    Raises InputError for a source that cannot give frames: of no known kind, missing, of the wrong format, or in need
    of a library that is not installed; for options that do not fit it or each other; for wrong boxes.
    """
    if boxes is not None and crop is not None:
        raise InputError(f"both boxes ({boxes}) and a crop ({crop}) are given; choose one")
    region = None if crop is None else parse_crop(crop)
    source = kind_of(spec).open(spec)
    if boxes is not None:
        if source.live:
            raise InputError(f"{spec} is live: its frames have no names that {boxes} could know; use a crop instead")
        return BoxedSource(source, read_boxes(Path(boxes)), boxes)
    return source if region is None else CroppedSource(source, region)


def kind_of(spec: str) -> Kind:
    """Return the kind of source that ``spec`` names; raises InputError naming all of them where it is none."""
    for kind in KINDS.values():
        if kind.fits(spec):
            return kind
    raise InputError(f"{spec!r} is no source; name {', '.join(kind.usage for kind in KINDS.values())}")
