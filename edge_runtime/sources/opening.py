"""What ``--source`` may name, and how each kind is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.image_set import IMAGE_SUFFIXES
from edge_runtime.sources.boxed import BoxedSource, CroppedSource, parse_crop
from edge_runtime.sources.boxes import BoxTable, read_boxes
from edge_runtime.sources.frame import Source

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"))
CAMERA = re.compile(r"camera:\d{1,3}|/dev/\S+")  # a stable name is /dev/v4l/by-id/...
BOX_TOPIC = "topic:"


@dataclass(frozen=True)
class Kind:
    """A kind of source: how a user names it, whether a specification is one, and what opens it (given the topic)."""

    usage: str
    fits: Callable[[str], bool]
    open: Callable[[str, str | None], Source]
    topics: bool = False


def is_folder(spec: str) -> bool:
    """Return whether there is such a folder."""
    return os.path.isdir(spec)


def is_image(spec: str) -> bool:
    """Return whether the name is that of an image file."""
    return _suffix(spec) in IMAGE_SUFFIXES


def is_video(spec: str) -> bool:
    """Return whether the name is that of a video file."""
    return _suffix(spec) in VIDEO_SUFFIXES


def is_log(spec: str) -> bool:
    """Return whether the name is that of a robot log."""
    return _suffix(spec) == ".mcap"


def is_camera(spec: str) -> bool:
    """Return whether a camera is named; folders and files in shared memory (/dev/shm) are none."""
    return CAMERA.fullmatch(spec) is not None and not (os.path.isdir(spec) or os.path.isfile(spec))


def is_pipeline(spec: str) -> bool:
    """Return whether a GStreamer pipeline is given."""
    return spec.startswith("gst:")


def open_images(spec: str, topic: str | None) -> Source:
    """Open a folder of images or one image."""
    from edge_runtime.sources.folder import FolderSource

    return FolderSource(existing(spec))


def open_video(spec: str, topic: str | None) -> Source:
    """Open a video file."""
    from edge_runtime.sources.video import VideoSource

    return VideoSource(existing(spec))


def open_robot_log(spec: str, topic: str | None) -> Source:
    """Open the images of ``topic`` in a robot log."""
    from edge_runtime.sources.mcap_source import open_log

    return open_log(existing(spec), topic)


def open_camera(spec: str, topic: str | None) -> Source:
    """Open a camera by its number or path."""
    from edge_runtime.sources.camera import open_device

    return open_device(spec)


def open_gstreamer(spec: str, topic: str | None) -> Source:
    """Open a GStreamer pipeline."""
    from edge_runtime.sources.camera import open_pipeline

    return open_pipeline(spec)


# Asked in this order: a folder may have any name, and a pipeline ends like anything.
KINDS: dict[str, Kind] = {
    "camera": Kind("camera:N or /dev/NAME", is_camera, open_camera),
    "pipeline": Kind("gst:PIPELINE", is_pipeline, open_gstreamer),
    "folder": Kind("a folder of images", is_folder, open_images),
    "image": Kind("an image (.png, .jpg, ...)", is_image, open_images),
    "video": Kind("a video (.mp4, .avi, ...)", is_video, open_video),
    "log": Kind("a robot log (.mcap)", is_log, open_robot_log, topics=True),
}


def open_source(spec: str, *, boxes: str | None = None, crop: str | None = None, topic: str | None = None) -> Source:
    """Open what ``spec`` names; see KINDS.

    ``topic`` chooses among the image topics of a robot log. ``boxes`` names a file of boxes (``boxes.READERS``), or, as
    "topic:NAME", a topic of the log with detections; ``crop`` is the same part of every frame (``boxed.parse_crop``).
    Without boxes and crop the whole frame is meant.

    Raises InputError for a source that cannot give frames: of no known kind, missing, of the wrong format, or in need
    of a library that is not installed; for options that do not fit it or each other; for wrong boxes.
    """
    kind = kind_of(spec)
    if boxes is not None and crop is not None:
        raise InputError(f"both boxes ({boxes}) and a crop ({crop}) are given; choose one")
    if topic is not None and not kind.topics:
        raise InputError(f"{spec} has no topics; leave {topic!r} out, or name a robot log (.mcap)")
    region = None if crop is None else parse_crop(crop)
    source = kind.open(spec, topic)
    if boxes is not None:
        return BoxedSource(source, box_table(source, boxes), boxes)
    return source if region is None else CroppedSource(source, region)


def kind_of(spec: str) -> Kind:
    """Return the kind of source that ``spec`` names; raises InputError naming all of them where it is none."""
    for kind in KINDS.values():
        if kind.fits(spec):
            return kind
    raise InputError(f"{spec!r} is no source; name {', '.join(kind.usage for kind in KINDS.values())}")


def box_table(source: Source, boxes: str) -> BoxTable:
    """Read the boxes of a source from a file, or from a topic of its log; see :func:`open_source`."""
    from edge_runtime.sources.mcap_source import McapSource

    if source.live:
        raise InputError(f"{source.name} is live: {boxes} cannot know its frames; use a crop instead")
    if not boxes.startswith(BOX_TOPIC):
        return read_boxes(Path(boxes))
    if not isinstance(source, McapSource):
        raise InputError(f"{source.name} has no topics; give a file of boxes instead of {boxes!r}")
    from edge_runtime.sources.mcap_boxes import read_detections

    return read_detections(source, boxes.removeprefix(BOX_TOPIC))


def existing(spec: str) -> Path:
    """Return the path; raises InputError where nothing is there."""
    path = Path(spec)
    if not path.exists():
        raise InputError(f"{spec} does not exist; check the path")
    return path


def _suffix(spec: str) -> str:
    return Path(spec).suffix.lower()
