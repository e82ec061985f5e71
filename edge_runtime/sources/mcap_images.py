"""From a robot log's message to a picture: ROS 2 and Foxglove, raw and compressed.

The messages are decoded with definitions that stand here, not with those that the file brings: these types have been
the same since ROS 2 exists, and a file's own could describe anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.preprocess import FRAME_FORMATS, check_size, load_image
from edge_runtime.sources.mcap_log import Topic, library

Picture = NDArray[np.uint8]

HEADER = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""
ROS_IMAGE = f"""
std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
{HEADER}"""
ROS_COMPRESSED_IMAGE = f"""
std_msgs/Header header
string format
uint8[] data
{HEADER}"""


@dataclass(frozen=True)
class Raw:
    """Pixels as they stand in a message: ``step`` bytes from row to row."""

    width: int
    height: int
    encoding: str
    step: int
    big_endian: bool
    data: bytes


@dataclass(frozen=True)
class PixelFormat:
    """``channels`` samples of ``sample`` bytes per pixel; ``rgb`` are the indices of red, green and blue."""

    rgb: tuple[int, int, int]
    channels: int
    sample: int = 1


GREY = (0, 0, 0)
# 16UC1 is missing on purpose: it holds depths, not brightness.
PIXEL_FORMATS: dict[str, PixelFormat] = {
    "rgb8": PixelFormat((0, 1, 2), 3),
    "bgr8": PixelFormat((2, 1, 0), 3),
    "8UC3": PixelFormat((2, 1, 0), 3),
    "rgba8": PixelFormat((0, 1, 2), 4),
    "bgra8": PixelFormat((2, 1, 0), 4),
    "mono8": PixelFormat(GREY, 1),
    "8UC1": PixelFormat(GREY, 1),
    "mono16": PixelFormat(GREY, 1, sample=2),
}


def raw_picture(raw: Raw) -> Picture:
    """Return RGB uint8 [H, W, 3]; of 16 bits the upper 8. Raises InputError for pixels that do not fit their size."""
    pixels = PIXEL_FORMATS.get(raw.encoding)
    if pixels is None:
        raise InputError(f"encoding {raw.encoding[:40]!r} is not read; known: {', '.join(PIXEL_FORMATS)}")
    check_size(raw.width, raw.height, "the image")
    row = raw.width * pixels.channels * pixels.sample
    if raw.step < row:
        raise InputError(f"a row of {raw.width} {raw.encoding} pixels takes {row} bytes, the message says {raw.step}")
    # The last row may come without its padding.
    needed = raw.step * (raw.height - 1) + row
    if len(raw.data) < needed:
        raise InputError(f"{raw.height} rows of {raw.step} bytes are announced, {len(raw.data)} bytes are there")
    samples = np.ndarray((raw.height, row), np.uint8, raw.data, strides=(raw.step, 1))
    if pixels.sample == 2:
        samples = samples[:, (0 if raw.big_endian else 1) :: 2]
    image = samples.reshape(raw.height, raw.width, pixels.channels)
    return np.ascontiguousarray(image[:, :, list(pixels.rgb)])


@dataclass(frozen=True)
class Decoder:
    """What is read from the bytes of one type of message."""

    picture: Callable[[bytes], Picture]
    stamp_ns: Callable[[bytes], int]


def ros_decoder(name: str, definition: str) -> Callable[[bytes], Any]:
    """Return what decodes a ROS 2 message (CDR) of the type that ``definition`` describes."""
    schema = library("mcap.records").Schema(id=1, name=name, encoding="ros2msg", data=definition.encode())
    decode: Callable[[bytes], Any] = library("mcap_ros2.decoder").DecoderFactory().decoder_for("cdr", schema)
    return decode


def ros_stamp(message: Any) -> int:
    """Return the header's time in nanoseconds; 0 means that nobody set it."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def ros_image() -> Decoder:
    """sensor_msgs/msg/Image."""
    decode = ros_decoder("sensor_msgs/msg/Image", ROS_IMAGE)

    def picture(data: bytes) -> Picture:
        message = decode(data)
        sizes = message.width, message.height, message.encoding, message.step
        return raw_picture(Raw(*sizes, big_endian=bool(message.is_bigendian), data=message.data))

    return Decoder(picture, lambda data: ros_stamp(decode(data)))


def ros_compressed_image() -> Decoder:
    """sensor_msgs/msg/CompressedImage; the bytes tell their format, whatever the message says."""
    decode = ros_decoder("sensor_msgs/msg/CompressedImage", ROS_COMPRESSED_IMAGE)
    return Decoder(
        lambda data: load_image(bytes(decode(data).data), FRAME_FORMATS), lambda data: ros_stamp(decode(data))
    )


def foxglove_message(name: str) -> Any:
    """Return Foxglove's published class of a message."""
    return getattr(library(f"foxglove_schemas_protobuf.{name}_pb2"), name)


def foxglove_stamp(message: Any) -> int:
    """Return the message's time in nanoseconds; 0 means that nobody set it."""
    return int(message.timestamp.seconds) * 1_000_000_000 + int(message.timestamp.nanos)


def raw_image(parse: Callable[[bytes], Any], stamp: Callable[[Any], int]) -> Decoder:
    """foxglove.RawImage in the encoding that ``parse`` reads."""

    def picture(data: bytes) -> Picture:
        message = parse(data)
        sizes = message.width, message.height, message.encoding, message.step
        return raw_picture(Raw(*sizes, big_endian=False, data=message.data))

    return Decoder(picture, lambda data: stamp(parse(data)))


def compressed_image(parse: Callable[[bytes], Any], stamp: Callable[[Any], int]) -> Decoder:
    """foxglove.CompressedImage in the encoding that ``parse`` reads."""
    return Decoder(lambda data: load_image(parse(data).data, FRAME_FORMATS), lambda data: stamp(parse(data)))


def foxglove_raw_image() -> Decoder:
    """foxglove.RawImage in protobuf."""
    return raw_image(foxglove_message("RawImage").FromString, foxglove_stamp)


def foxglove_compressed_image() -> Decoder:
    """foxglove.CompressedImage in protobuf."""
    return compressed_image(foxglove_message("CompressedImage").FromString, foxglove_stamp)


class _Time(msgspec.Struct, frozen=True):
    sec: int
    nsec: int


class _JsonCompressedImage(msgspec.Struct, frozen=True):
    timestamp: _Time
    data: bytes  # base64, as Foxglove's JSON schemas have it


class _JsonRawImage(msgspec.Struct, frozen=True):
    timestamp: _Time
    width: int
    height: int
    encoding: str
    step: int
    data: bytes


def json_stamp(message: _JsonCompressedImage | _JsonRawImage) -> int:
    """Return the message's time in nanoseconds; 0 means that nobody set it."""
    return message.timestamp.sec * 1_000_000_000 + message.timestamp.nsec


def json_raw_image() -> Decoder:
    """foxglove.RawImage in JSON."""
    return raw_image(msgspec.json.Decoder(_JsonRawImage).decode, json_stamp)


def json_compressed_image() -> Decoder:
    """foxglove.CompressedImage in JSON."""
    return compressed_image(msgspec.json.Decoder(_JsonCompressedImage).decode, json_stamp)


DECODERS: dict[Topic, Callable[[], Decoder]] = {
    Topic("sensor_msgs/msg/Image", "cdr"): ros_image,
    Topic("sensor_msgs/msg/CompressedImage", "cdr"): ros_compressed_image,
    Topic("foxglove.CompressedImage", "protobuf"): foxglove_compressed_image,
    Topic("foxglove.RawImage", "protobuf"): foxglove_raw_image,
    Topic("foxglove.CompressedImage", "json"): json_compressed_image,
    Topic("foxglove.RawImage", "json"): json_raw_image,
}
