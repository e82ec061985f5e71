"""Boxes from a robot log: a vision_msgs/msg/Detection2DArray topic, joined to the images by their headers' stamps.

Detections come after the image that they belong to, some of them long after, so the log is read once for them first.
"""

from __future__ import annotations

import math
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.sources.boxes import BoxTable, Corners
from edge_runtime.sources.mcap_images import ros_stamp
from edge_runtime.sources.mcap_log import McapLog, Topic, library
from edge_runtime.sources.mcap_source import McapSource, image_messages

DETECTIONS = Topic("vision_msgs/msg/Detection2DArray", "cdr")


def read_detections(source: McapSource, topic: str) -> BoxTable:
    """Return the boxes of a topic by the frames of ``source`` that they belong to.

    Boxes whose stamp no image has are under a name that no frame has. Messages that cannot be decoded are left out:
    their frame then has no boxes. The detectors' classes are not taken over, for they are not the truth.

    Raises InputError where ``topic`` is no such topic, or holds no boxes that can be read.
    """
    log = source.log
    kind = log.topics().get(topic)
    if kind != DETECTIONS:
        known = [name for name, each in log.topics().items() if each == DETECTIONS]
        found = "" if kind is None else f" (it is {kind.schema})"
        raise InputError(
            f"{log.path} has no topic {topic!r} of {DETECTIONS.schema}{found}; it has {', '.join(known) or 'none'}"
        )
    by_stamp = detections_by_stamp(log, topic)
    table: BoxTable = {}
    joined: set[int] = set()
    for frame_id, entry in image_messages(log, source.topic, ignore):
        try:
            stamp = source.decoder(entry.kind).stamp_ns(entry.data)
        except Exception:  # reported and counted when the frames are read
            continue
        # An unset stamp joins nothing. Images of the same stamp are the same image, and share the boxes.
        if stamp and stamp in by_stamp:
            table[frame_id] = by_stamp[stamp]
            joined.add(stamp)
    table.update({f"stamp {stamp}": corners for stamp, corners in by_stamp.items() if stamp not in joined})
    return table


def ignore(what: str, lost: int) -> None:
    """Damage is reported when the frames are read."""


def detections_by_stamp(log: McapLog, topic: str) -> dict[int, list[Corners]]:
    """Return the boxes of every stamp. Raises InputError where not one message can be decoded."""
    found: dict[int, list[Corners]] = {}
    factory = library("mcap_ros2.decoder").DecoderFactory()
    unreadable = 0
    for entry in log.messages(topic, ignore):
        try:
            # With the file's own definition: this type has changed from one ROS release to the next.
            message = factory.decoder_for("cdr", entry.schema)(entry.data)
            boxes = [corners_of(each) for each in message.detections]
            stamp = ros_stamp(message)
        except Exception:  # as with images: each message is judged alone
            unreadable += 1
        else:
            if boxes:
                found.setdefault(stamp, []).extend(boxes)
    if not found:
        raise InputError(f"{log.path}: {topic} holds no boxes ({unreadable} messages cannot be read); leave it out")
    return found


def corners_of(detection: Any) -> Corners:
    """Return the upright box around a detection's box, which may be turned (theta, radians)."""
    bbox = detection.bbox
    centre = getattr(bbox.center, "position", bbox.center)  # vision_msgs 4 has a position, 3 and earlier x and y
    sine, cosine = abs(math.sin(bbox.center.theta)), abs(math.cos(bbox.center.theta))
    half_width = (bbox.size_x * cosine + bbox.size_y * sine) / 2
    half_height = (bbox.size_x * sine + bbox.size_y * cosine) / 2
    return Corners(centre.x - half_width, centre.y - half_height, centre.x + half_width, centre.y + half_height)
