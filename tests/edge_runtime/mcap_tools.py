"""Robot logs for tests, written by the formats' own libraries with the messages' published definitions."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap_protobuf.writer import Writer as ProtobufWriter
from mcap_ros2.writer import Writer as RosWriter
from numpy.typing import NDArray

from tests.edge_runtime.source_tools import encoded, picture

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
RULE = "=" * 80 + "\n"
HEADER = RULE + "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
IMAGE = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
    "uint8[] data\n" + HEADER
)
COMPRESSED = "std_msgs/Header header\nstring format\nuint8[] data\n" + HEADER
POSE = (
    RULE + "MSG: geometry_msgs/PoseWithCovariance\ngeometry_msgs/Pose pose\nfloat64[36] covariance\n"
    "" + RULE + "MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
    "" + RULE + "MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    "" + RULE + "MSG: geometry_msgs/Quaternion\nfloat64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1\n"
)
# vision_msgs 4 (Humble and later).
DETECTIONS_4 = (
    "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n"
    "" + RULE + "MSG: vision_msgs/Detection2D\nstd_msgs/Header header\n"
    "vision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\nstring id\n"
    "" + RULE + "MSG: vision_msgs/ObjectHypothesisWithPose\nvision_msgs/ObjectHypothesis hypothesis\n"
    "geometry_msgs/PoseWithCovariance pose\n"
    "" + RULE + "MSG: vision_msgs/ObjectHypothesis\nstring class_id\nfloat64 score\n"
    "" + RULE + "MSG: vision_msgs/BoundingBox2D\nvision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n"
    "" + RULE + "MSG: vision_msgs/Pose2D\nvision_msgs/Point2D position\nfloat64 theta\n"
    "" + RULE + "MSG: vision_msgs/Point2D\nfloat64 x\nfloat64 y\n" + POSE + HEADER
)
# vision_msgs 2 (Foxy): another centre, other hypotheses, the source image inside.
DETECTIONS_2 = (
    "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n"
    "" + RULE + "MSG: vision_msgs/Detection2D\nstd_msgs/Header header\n"
    "vision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox2D bbox\nsensor_msgs/Image source_img\n"
    "bool is_tracking\nstring tracking_id\n"
    "" + RULE + "MSG: vision_msgs/ObjectHypothesisWithPose\nstring id\nfloat64 score\n"
    "geometry_msgs/PoseWithCovariance pose\n"
    "" + RULE + "MSG: vision_msgs/BoundingBox2D\ngeometry_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n"
    "" + RULE + "MSG: geometry_msgs/Pose2D\nfloat64 x\nfloat64 y\nfloat64 theta\n"
    "" + RULE + "MSG: sensor_msgs/Image\n" + IMAGE.split(RULE)[0] + POSE + HEADER
)
DEFINITIONS = {
    "sensor_msgs/msg/Image": IMAGE,
    "sensor_msgs/msg/CompressedImage": COMPRESSED,
    "vision_msgs/msg/Detection2DArray": DETECTIONS_4,
    "std_msgs/msg/String": "string data\n",
}

RosMessage = tuple[str, str, int, dict[str, Any]]  # topic, type, log time, content


def header(stamp_ns: int) -> dict[str, Any]:
    return {"stamp": {"sec": stamp_ns // SECOND, "nanosec": stamp_ns % SECOND}, "frame_id": "camera"}


def ros_image(
    pixels: NDArray[Any], encoding: str, *, stamp_ns: int = START, padding: int = 0, big_endian: bool = False
) -> dict[str, Any]:
    """Return the content of a sensor_msgs/msg/Image; every row is followed by ``padding`` bytes."""
    height, width = pixels.shape[:2]
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if big_endian else "<u2")
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    return {
        "header": header(stamp_ns),
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": int(big_endian),
        "step": padded.shape[1],
        "data": padded.tobytes(),
    }


def ros_compressed(data: bytes, *, stamp_ns: int = START, format_: str = "jpeg") -> dict[str, Any]:
    """Return the content of a sensor_msgs/msg/CompressedImage."""
    return {"header": header(stamp_ns), "format": format_, "data": data}


def detections(stamp_ns: int, *boxes: tuple[float, float, float, float], theta: float = 0.0) -> dict[str, Any]:
    """Return the content of a Detection2DArray of vision_msgs 4 from centres and sizes."""
    found = [
        {
            "header": header(stamp_ns),
            "results": [{"hypothesis": {"class_id": "sign", "score": 0.9}, "pose": {}}],
            "bbox": {"center": {"position": {"x": x, "y": y}, "theta": theta}, "size_x": width, "size_y": height},
            "id": "7",
        }
        for x, y, width, height in boxes
    ]
    return {"header": header(stamp_ns), "detections": found}


def write_ros(
    path: Path,
    messages: Iterable[RosMessage],
    *,
    chunk_size: int = 16 << 10,
    compression: CompressionType = CompressionType.ZSTD,
    definitions: dict[str, str] | None = None,
) -> Path:
    """Write a ROS 2 log."""
    with path.open("wb") as file:
        writer = RosWriter(file, chunk_size=chunk_size, compression=compression)
        known = {**DEFINITIONS, **(definitions or {})}
        schemas: dict[str, Any] = {}
        for topic, type_, log_time, content in messages:
            if type_ not in schemas:
                schemas[type_] = writer.register_msgdef(type_, known[type_])
            writer.write_message(topic, schemas[type_], content, log_time=log_time)
        writer.finish()
    return path


def write_protobuf(path: Path, messages: Iterable[tuple[str, int, Any]]) -> Path:
    """Write a log of (topic, log time, protobuf message)."""
    with path.open("wb") as file, ProtobufWriter(file) as writer:
        for topic, log_time, message in messages:
            writer.write_message(topic, message, log_time=log_time)
    return path


def camera_log(path: Path, count: int, *, kind: str = "PNG", **options: Any) -> Path:
    """Write ``count`` compressed pictures (0, 1, ...) at ten per second on /camera."""
    return write_ros(
        path,
        (
            (
                "/camera",
                "sensor_msgs/msg/CompressedImage",
                START + number * SECOND // 10,
                ros_compressed(encoded(picture(number), kind), stamp_ns=START + number * SECOND // 10 - 5),
            )
            for number in range(count)
        ),
        **options,
    )


def chunks_of(path: Path) -> list[tuple[int, int]]:
    """Return start and length of the content of every chunk record."""
    data, offset, found = path.read_bytes(), 8, []
    while offset < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, offset)
        if opcode == 0x06:
            found.append((offset + 9, length))
        offset += 9 + length
    return found
