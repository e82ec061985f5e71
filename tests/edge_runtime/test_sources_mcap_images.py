"""Every encoding and type of message that holds an image."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from mcap.writer import Writer
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.sources.mcap_images import DECODERS, PIXEL_FORMATS, Raw, raw_picture
from edge_runtime.sources.mcap_log import Topic
from edge_runtime.sources.mcap_source import open_log
from tests.edge_runtime.mcap_tools import SECOND, START, ros_compressed, ros_image, write_protobuf, write_ros
from tests.edge_runtime.source_tools import encoded, picture, read_all

RGB = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
ALPHA = np.full((5, 7, 1), 99, np.uint8)
GREY = RGB[:, :, :1]
DEEP = np.random.default_rng(6).integers(0, 1 << 16, (5, 7, 1), np.uint16)

# Encoding -> the message's pixels, the picture that they are.
CASES: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[:, :, ::-1], RGB),
    "8UC3": (RGB[:, :, ::-1], RGB),
    "rgba8": (np.concatenate([RGB, ALPHA], axis=2), RGB),
    "bgra8": (np.concatenate([RGB[:, :, ::-1], ALPHA], axis=2), RGB),
    "mono8": (GREY, GREY.repeat(3, axis=2)),
    "8UC1": (GREY, GREY.repeat(3, axis=2)),
    "mono16": (DEEP, (DEEP >> 8).astype(np.uint8).repeat(3, axis=2)),
}


def test_every_encoding_has_a_case() -> None:
    assert set(CASES) == set(PIXEL_FORMATS)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", CASES)
def test_ros_images(tmp_path: Path, encoding: str, padding: int, big_endian: bool) -> None:
    pixels, expected = CASES[encoding]
    content = ros_image(pixels, encoding, padding=padding, big_endian=big_endian)
    path = write_ros(tmp_path / "log.mcap", [("/image", "sensor_msgs/msg/Image", START, content)])
    (frame,) = read_all(open_log(path))
    np.testing.assert_array_equal(frame.image, expected)
    assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous


@pytest.mark.parametrize("encoding", CASES)
def test_foxglove_raw_images(tmp_path: Path, encoding: str) -> None:
    pixels, expected = CASES[encoding]
    content = ros_image(pixels, encoding, padding=2)
    message = RawImage(width=7, height=5, encoding=encoding, step=content["step"], data=content["data"])
    (frame,) = read_all(open_log(write_protobuf(tmp_path / "log.mcap", [("/image", START, message)])))
    np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP"])
def test_compressed_images_of_rare_formats_are_not_decoded(tmp_path: Path, kind: str) -> None:
    """Their decoders are attacked more often than they are used on a vehicle's bus."""
    content = ros_compressed(encoded(picture(1), kind), format_="png")
    path = write_ros(tmp_path / "log.mcap", [("/image", "sensor_msgs/msg/CompressedImage", START, content)])
    with pytest.raises(InputError):
        read_all(open_log(path))


@pytest.mark.parametrize("format_", ["png", "bgr8; png compressed bgr8", "jpeg", ""])
def test_compressed_images_tell_their_format_themselves(tmp_path: Path, format_: str) -> None:
    data = encoded(picture(1), "PNG")
    content = ros_compressed(data, format_=format_)
    ros = write_ros(tmp_path / "ros.mcap", [("/image", "sensor_msgs/msg/CompressedImage", START, content)])
    foxglove = write_protobuf(
        tmp_path / "foxglove.mcap", [("/image", START, CompressedImage(format=format_, data=data))]
    )
    for path in (ros, foxglove):
        (frame,) = read_all(open_log(path))
        np.testing.assert_array_equal(frame.image, picture(1))


def test_jpeg(tmp_path: Path) -> None:
    content = ros_compressed(encoded(picture(2), "JPEG", quality=95))
    path = write_ros(tmp_path / "log.mcap", [("/image", "sensor_msgs/msg/CompressedImage", START, content)])
    (frame,) = read_all(open_log(path))
    assert np.abs(frame.image.astype(int) - picture(2)).mean() < 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8' is not read; known: rgb8, bgr8"),
        ({"width": 0}, "the image is 0 x 5 pixels; it must have at least one"),
        ({"width": 1 << 31, "height": 1 << 31}, "more than 67,108,864; scale it down"),
        ({"step": 20}, "a row of 7 rgb8 pixels takes 21 bytes, the message says 20"),
        ({"height": 6}, "6 rows of 21 bytes are announced, 105 bytes are there"),
        ({"data": b""}, "5 rows of 21 bytes are announced, 0 bytes are there"),
        ({"step": 0xFFFFFFFF}, "5 rows of 4294967295 bytes are announced, 105 bytes are there"),
    ],
)
def test_pixels_that_do_not_fit_their_size(changes: dict[str, Any], reason: str) -> None:
    fields = {"width": 7, "height": 5, "encoding": "rgb8", "step": 21, "big_endian": False, "data": RGB.tobytes()}
    np.testing.assert_array_equal(raw_picture(Raw(**fields)), RGB)
    with pytest.raises(InputError, match=reason):
        raw_picture(Raw(**{**fields, **changes}))


def test_the_last_row_may_come_without_padding() -> None:
    content = ros_image(RGB, "rgb8", padding=3)
    raw = Raw(7, 5, "rgb8", content["step"], False, content["data"][:-3])
    np.testing.assert_array_equal(raw_picture(raw), RGB)


def write_json(path: Path, schema: str, messages: list[dict[str, Any]]) -> Path:
    """Write messages of one Foxglove schema in JSON on /image, a second apart."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/image", "json", writer.register_schema(schema, "jsonschema", b"{}"))
        for number, message in enumerate(messages):
            moment = START + number * SECOND
            stamp = {"sec": moment // SECOND, "nsec": 7}
            writer.add_message(channel, moment, json.dumps({"timestamp": stamp, **message}).encode(), moment)
        writer.finish()
    return path


def test_foxglove_images_in_json(tmp_path: Path) -> None:
    raw = {"width": 7, "height": 5, "encoding": "rgb8", "step": 21, "data": base64.b64encode(RGB.tobytes()).decode()}
    coded = {"frame_id": "camera", "format": "png", "data": base64.b64encode(encoded(picture(1), "PNG")).decode()}
    for schema, message, expected in (
        ("foxglove.RawImage", raw, RGB),
        ("foxglove.CompressedImage", coded, picture(1)),
    ):
        wrong: list[dict[str, Any]] = [{}, {**message, "data": "?!"}, {**message, "data": 7}]
        source = open_log(write_json(tmp_path / "log.mcap", schema, [message, *wrong, message]))
        frames = read_all(source)
        assert [frame.frame_id for frame in frames] == [f"/image@{START}", f"/image@{START + 4 * SECOND}"]
        np.testing.assert_array_equal(frames[0].image, expected)
        assert source.failed == 3
        assert next(iter(source.log.messages("/image", lambda what, lost: None))).kind == Topic(schema, "json")
        stamp = {"timestamp": {"sec": 12, "nsec": 34}}
        assert DECODERS[Topic(schema, "json")]().stamp_ns(json.dumps(message | stamp).encode()) == 12 * SECOND + 34


def test_stamps(tmp_path: Path) -> None:
    message = RawImage(width=7, height=5, encoding="rgb8", step=21, data=RGB.tobytes())
    message.timestamp.FromNanoseconds(START + 3)
    assert DECODERS[open_log_kind(tmp_path, message)]().stamp_ns(message.SerializeToString()) == START + 3
    compressed = CompressedImage(data=b"x")
    compressed.timestamp.FromNanoseconds(START + 4)
    assert DECODERS[open_log_kind(tmp_path, compressed)]().stamp_ns(compressed.SerializeToString()) == START + 4


def open_log_kind(folder: Path, message: Any) -> Any:
    """Return the type of a protobuf message as a log tells it."""
    source = open_log(write_protobuf(folder / "log.mcap", [("/image", START, message)]))
    return source.log.topics()["/image"]
