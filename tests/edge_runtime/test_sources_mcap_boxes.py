"""Detections of a robot log as boxes, joined by the headers' stamps."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from mcap.writer import CompressionType

from edge_runtime.errors import InputError
from edge_runtime.sources import Box, open_source
from edge_runtime.sources.frame import BOXES, FAILED
from tests.edge_runtime.mcap_tools import (
    DETECTIONS_2,
    START,
    RosMessage,
    chunks_of,
    detections,
    header,
    ros_compressed,
    ros_image,
    write_ros,
)
from tests.edge_runtime.source_tools import Reports, encoded, image_folder, is_read, picture, read_all

ARRAY = "vision_msgs/msg/Detection2DArray"
LAG = 250_000_000  # a detector's answer is logged so much later than its image


def images(*stamps: int) -> list[RosMessage]:
    return [
        ("/camera", "sensor_msgs/msg/CompressedImage", stamp + 7, ros_compressed(encoded(picture(0)), stamp_ns=stamp))
        for stamp in stamps
    ]


def found(content: dict[str, Any], stamp: int) -> RosMessage:
    return ("/detections", ARRAY, stamp + LAG, content)


def in_order(messages: list[RosMessage]) -> list[RosMessage]:
    return sorted(messages, key=lambda message: message[2])


def test_boxes_belong_to_the_image_of_the_same_stamp(tmp_path: Path) -> None:
    stamps = [START + number * 100_000_000 for number in range(4)]
    messages = [
        *images(*stamps),
        found(detections(stamps[0], (10, 8, 6, 4), (20, 12, 8, 8)), stamps[0]),
        found(detections(stamps[1]), stamps[1]),
        found(detections(stamps[2], (31, 12, 6, 4)), stamps[2]),
        found(detections(stamps[3] + 1, (10, 8, 6, 4)), stamps[3]),
    ]
    path, reports = write_ros(tmp_path / "log.mcap", in_order(messages)), Reports()
    first, third = read_all(open_source(str(path), boxes="topic:/detections"), reports)
    assert first.frame_id == f"/camera@{stamps[0] + 7}" and third.frame_id == f"/camera@{stamps[2] + 7}"
    assert first.boxes == (Box(7, 6, 13, 10), Box(16, 8, 24, 16))
    assert third.boxes == (Box(28, 10, 32, 14),) and "clipped" in third.problems[0]
    assert reports.of(BOXES) == [
        f"2 frames of {path} have no boxes in topic:/detections and were left out",
        f"1 boxes of topic:/detections belong to 1 frames that did not come; first: 'stamp {stamps[3] + 1}'",
    ]


def test_turned_boxes_get_their_upright_hull(tmp_path: Path) -> None:
    message = detections(START, (16, 12, 10, 4), theta=math.pi / 2)
    path = write_ros(tmp_path / "log.mcap", [*images(START), found(message, START)])
    (frame,) = read_all(open_source(str(path), boxes="topic:/detections"))
    assert frame.boxes == (Box(14, 7, 18, 17),)


def test_the_definition_of_an_earlier_release(tmp_path: Path) -> None:
    content = {
        "header": header(START),
        "detections": [
            {
                "header": header(START),
                "results": [{"id": "sign", "score": 0.9, "pose": {}}],
                "bbox": {"center": {"x": 10.0, "y": 8.0, "theta": 0.0}, "size_x": 6.0, "size_y": 4.0},
                "source_img": ros_image(picture(1), "rgb8"),
                "is_tracking": False,
                "tracking_id": "",
            }
        ],
    }
    messages = [*images(START), found(content, START)]
    path = write_ros(tmp_path / "log.mcap", messages, definitions={ARRAY: DETECTIONS_2})
    (frame,) = read_all(open_source(str(path), boxes="topic:/detections"))
    assert frame.boxes == (Box(7, 6, 13, 10),)


def test_unset_stamps_join_nothing(tmp_path: Path) -> None:
    messages = [
        *(("/camera", "sensor_msgs/msg/CompressedImage", START, ros_compressed(encoded(picture(0)), stamp_ns=0)),),
        ("/detections", ARRAY, START, detections(0, (10, 8, 6, 4))),
    ]
    path = write_ros(tmp_path / "log.mcap", messages)
    with pytest.raises(InputError, match=r"the boxes name frames like 'stamp 0', the last frame is '/camera@\d+'"):
        read_all(open_source(str(path), boxes="topic:/detections"))


def test_detections_that_are_not_finite(tmp_path: Path) -> None:
    message = detections(START, (math.nan, 8, 6, 4), (10, 8, 6, 4))
    other = detections(START + 1, (10, 8, math.inf, 4))
    messages = [*images(START, START + 1), found(message, START), found(other, START + 1)]
    source, reports = open_source(str(write_ros(tmp_path / "log.mcap", messages)), boxes="topic:/detections"), Reports()
    (frame,) = read_all(source, reports)
    assert frame.boxes == (Box(7, 6, 13, 10),)
    assert frame.problems == ("box nan,6,nan,10 is not finite; dropped",)
    assert source.failed == 1 and "is not finite" in reports.of(FAILED)[0]


def test_topics_without_boxes(tmp_path: Path) -> None:
    messages = [*images(START), found(detections(START), START)]
    path = str(write_ros(tmp_path / "log.mcap", messages))
    with pytest.raises(InputError, match="/detections holds no boxes"):
        open_source(path, boxes="topic:/detections")
    with pytest.raises(InputError, match=r"has no topic '/boxes' of vision_msgs.*; it has /detections"):
        open_source(path, boxes="topic:/boxes")
    with pytest.raises(InputError, match=r"\(it is sensor_msgs/msg/CompressedImage\); it has /detections"):
        open_source(path, boxes="topic:/camera")
    folder = image_folder(tmp_path / "images", 1)
    with pytest.raises(InputError, match="images has no topics; give a file of boxes instead of 'topic:/boxes'"):
        open_source(str(folder), boxes="topic:/boxes")


def test_a_file_of_boxes_for_a_log(tmp_path: Path) -> None:
    path = write_ros(tmp_path / "log.mcap", images(START, START + 1))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"frame,x0,y0,x1,y1,label\n/camera@{START + 8},1,2,3,4,stop\n")
    (frame,) = read_all(open_source(str(path), boxes=str(boxes)))
    assert frame.boxes == (Box(1, 2, 3, 4, "stop"),)


def mutated_detections(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Read ``count`` damaged logs, definitions included; return how many gave frames and how many were refused."""
    stamps = [START + number for number in range(4)]
    messages = [*images(*stamps), *(found(detections(stamp, (10, 8, 6, 4), (20, 12, 8, 8)), stamp) for stamp in stamps)]
    original = write_ros(folder / "log.mcap", in_order(messages), compression=CompressionType.NONE).read_bytes()
    randomness, read = random.Random(seed), 0
    for _ in range(count):
        data = bytearray(original)
        # Checksums would reject nearly all of them: a chunk whose checksum is 0 has none.
        for start, _ in chunks_of(folder / "log.mcap"):
            data[start + 24 : start + 28] = bytes(4)
        for _ in range(randomness.choice((1, 4, 16))):
            data[randomness.randrange(8, len(data))] = randomness.randrange(256)
        (folder / "mutated.mcap").write_bytes(bytes(data))
        read += is_read(folder / "mutated.mcap", boxes="topic:/detections")
    return read, count - read


def test_mutated_detections(tmp_path: Path) -> None:
    read, refused = mutated_detections(tmp_path, 100, seed=6)
    assert read > 10 and refused > 10


@pytest.mark.slow
def test_two_thousand_mutated_detections(tmp_path: Path) -> None:
    read, refused = mutated_detections(tmp_path, 2000, seed=7)
    assert read > 200 and refused > 200
