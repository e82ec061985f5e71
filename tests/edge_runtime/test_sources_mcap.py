"""Robot logs: choosing a topic, naming frames, and reading what is cut off or damaged."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zstandard
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.records import Chunk
from mcap.writer import CompressionType
from PIL import Image

from edge_runtime.errors import InputError
from edge_runtime.log import FrameRecord
from edge_runtime.log.export import export_log
from edge_runtime.log.thumbnails import decode, encode_image
from edge_runtime.sources import open_source
from edge_runtime.sources.frame import CUT, FAILED
from edge_runtime.sources.mcap_log import DECOMPRESS, MAX_RECORD_BYTES, decompress
from tests.edge_runtime.log_tools import open_log
from tests.edge_runtime.mcap_tools import (
    SECOND,
    START,
    camera_log,
    chunks_of,
    ros_compressed,
    ros_image,
    write_protobuf,
    write_ros,
)
from tests.edge_runtime.source_tools import Reports, encoded, is_read, picture, read_all

COMPRESSED = "sensor_msgs/msg/CompressedImage"


@pytest.mark.parametrize("compression", list(CompressionType))
def test_frames_are_named_by_topic_and_log_time(tmp_path: Path, compression: CompressionType) -> None:
    path = camera_log(tmp_path / "log.mcap", 5, compression=compression)
    source = open_source(str(path))
    frames = read_all(source)
    assert [frame.frame_id for frame in frames] == [f"/camera@{START + number * SECOND // 10}" for number in range(5)]
    assert all(np.array_equal(frame.image, picture(number)) for number, frame in enumerate(frames))
    assert (source.live, source.failed, source.name) == (False, 0, str(path))


def test_replaying_gives_the_same_frames(tmp_path: Path) -> None:
    path = camera_log(tmp_path / "log.mcap", 8, kind="JPEG")
    first, second = (read_all(open_source(str(path))) for _ in range(2))
    assert [frame.frame_id for frame in first] == [frame.frame_id for frame in second]
    assert all(one.image.tobytes() == two.image.tobytes() for one, two in zip(first, second, strict=True))


def test_messages_of_the_same_time_stay_apart(tmp_path: Path) -> None:
    messages = [("/c", COMPRESSED, START, ros_compressed(encoded(picture(number)))) for number in range(3)]
    frames = read_all(open_source(str(write_ros(tmp_path / "log.mcap", messages))))
    assert [frame.frame_id for frame in frames] == [f"/c@{START}{suffix}" for suffix in ("", "+1", "+2")]


def test_ids_stay_apart_where_times_go_backwards(tmp_path: Path) -> None:
    times = [START + offset for offset in (5, 9, 5, 7, 9, 5, 1)]
    messages = [
        ("/c", COMPRESSED, moment, ros_compressed(encoded(picture(number)))) for number, moment in enumerate(times)
    ]
    frames = read_all(open_source(str(write_ros(tmp_path / "log.mcap", messages))))
    names = [frame.frame_id.removeprefix(f"/c@{START // 10}") for frame in frames]
    assert names == ["5", "9", "5+1", "7", "9+1", "5+2", "1"]


def two_cameras(path: Path) -> Path:
    return write_ros(
        path,
        [
            ("/left", COMPRESSED, START, ros_compressed(encoded(picture(0)))),
            ("/right", "sensor_msgs/msg/Image", START, ros_image(picture(1), "rgb8")),
            ("/chatter", "std_msgs/msg/String", START, {"data": "hello"}),
        ],
    )


def test_topics(tmp_path: Path) -> None:
    path = str(two_cameras(tmp_path / "log.mcap"))
    with pytest.raises(InputError, match="holds 2 image topics; choose one: /left, /right"):
        open_source(path)
    with pytest.raises(InputError, match="has no image topic '/chatter'; choose one: /left, /right"):
        open_source(path, topic="/chatter")
    (frame,) = read_all(open_source(path, topic="/right"))
    np.testing.assert_array_equal(frame.image, picture(1))
    with pytest.raises(InputError, match=r"video\.mp4 has no topics; leave '/left' out, or name a robot log"):
        open_source("video.mp4", topic="/left")


def test_logs_without_images(tmp_path: Path) -> None:
    path = write_ros(tmp_path / "log.mcap", [("/chatter", "std_msgs/msg/String", START, {"data": "hello"})])
    with pytest.raises(InputError, match=r"holds no image topic that is read; it holds /chatter \(std_msgs/msg/Str"):
        open_source(str(path))
    with pytest.raises(InputError, match="it holds no topics"):
        open_source(str(write_ros(tmp_path / "empty.mcap", [])))


@pytest.mark.parametrize("content", [b"", b"\x89MCA", b"hello world, this is no log", bytes(100)])
def test_files_that_are_no_logs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.mcap").write_bytes(content)
    with pytest.raises(InputError, match=r"log\.mcap is no MCAP file: it does not begin like one"):
        open_source(str(tmp_path / "log.mcap"))
    with pytest.raises(InputError, match=r"absent\.mcap does not exist; check the path"):
        open_source(str(tmp_path / "absent.mcap"))


def test_a_corrupt_picture_is_counted_and_the_next_one_goes_on(tmp_path: Path) -> None:
    contents = [encoded(picture(number), "JPEG") for number in range(4)]
    contents[1] = contents[1][:200]
    contents[2] = b"no picture"
    messages = [("/c", COMPRESSED, START + number, ros_compressed(data)) for number, data in enumerate(contents)]
    source, reports = open_source(str(write_ros(tmp_path / "log.mcap", messages))), Reports()
    assert [frame.frame_id for frame in read_all(source, reports)] == [f"/c@{START}", f"/c@{START + 3}"]
    assert source.failed == 2
    assert [message.split(":")[0] for message in reports.of(FAILED)] == [f"/c@{START + 1}", f"/c@{START + 2}"]


def test_a_bomb_in_a_message_is_refused_before_decoding(tmp_path: Path) -> None:
    packed = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(packed, "PNG")
    bomb = packed.getvalue()
    assert len(bomb) < 100_000
    messages = [
        ("/c", COMPRESSED, START, ros_compressed(bomb)),
        ("/c", COMPRESSED, START + 1, ros_compressed(encoded(picture(0)))),
    ]
    foxglove = [("/c", START, CompressedImage(data=bomb)), ("/c", START + 1, CompressedImage(data=encoded(picture(0))))]
    for path in (write_ros(tmp_path / "a.mcap", messages), write_protobuf(tmp_path / "b.mcap", foxglove)):
        source, reports = open_source(str(path)), Reports()
        assert len(read_all(source, reports)) == 1 and source.failed == 1
        assert "10000 x 10000 pixels, more than 67,108,864" in reports.of(FAILED)[0]


def test_nothing_readable(tmp_path: Path) -> None:
    path = write_ros(tmp_path / "log.mcap", [("/c", COMPRESSED, START, ros_compressed(b"no"))])
    with pytest.raises(InputError, match=r"gives no image of /c \(image cannot be read as an image"):
        read_all(open_source(str(path)))
    deep = ros_image(picture(0), "16UC1")
    path = write_ros(tmp_path / "deep.mcap", [("/c", "sensor_msgs/msg/Image", START, deep)])
    with pytest.raises(InputError, match="encoding '16UC1' is not read; known: rgb8"):
        read_all(open_source(str(path)))


def test_logs_cut_off_anywhere_give_what_lies_before_the_cut(tmp_path: Path) -> None:
    path = camera_log(tmp_path / "log.mcap", 40, chunk_size=512)
    whole, ends = path.read_bytes(), [start + length for start, length in chunks_of(path)]
    expected = [frame.frame_id for frame in read_all(open_source(str(path)))]
    randomness, cut_path, counts = random.Random(1), tmp_path / "cut.mcap", set()
    assert len(ends) > 8 and len(expected) == 40
    for cut in [*(randomness.randrange(9, len(whole)) for _ in range(120)), *ends, len(whole) - 1]:
        cut_path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        reports = Reports()
        try:
            found = [frame.frame_id for frame in read_all(open_source(str(cut_path)), reports)]
        except InputError:
            assert not complete, "a whole chunk was there"
            continue
        assert found == expected[: len(found)]
        assert len(found) >= complete, "every chunk holds at least one picture"
        # A log whose data are complete is not called damaged, whatever has become of its index.
        assert (reports.names == [CUT]) == (cut < data_end(path))
        counts.add(len(found))
    assert len(counts) > 8 and 40 in counts


def data_end(path: Path) -> int:
    """Return where the record DataEnd is complete."""
    data, offset = path.read_bytes(), 8
    while True:
        opcode, length = struct.unpack_from("<BQ", data, offset)
        offset += 9 + length
        if opcode == 0x0F:
            return offset


def test_a_damaged_chunk_is_passed_over_and_its_images_are_counted(tmp_path: Path) -> None:
    path = camera_log(tmp_path / "log.mcap", 40, chunk_size=512)
    chunks, data = chunks_of(path), bytearray(path.read_bytes())
    everything = len(read_all(open_source(str(path))))
    for number in (0, 3, 4):  # the first one brings the topic, which the index at the end knows as well
        start, length = chunks[number]
        data[start + length - 20] ^= 0x55
    path.write_bytes(bytes(data))
    source, reports = open_source(str(path)), Reports()
    frames = read_all(source, reports)
    assert source.failed >= 3 and len(frames) + source.failed == everything
    assert len(reports.of(CUT)) == 3
    assert all("the chunk before byte" in line and "lost with it" in line for line in reports.of(CUT))


def test_decompression_is_bounded() -> None:
    bomb = bytes(64 << 20)
    for name, data in (("zstd", zstandard.compress(bomb)), ("lz4", lz4.frame.compress(bomb))):
        tracemalloc.start()
        with pytest.raises(ValueError, match="does not have the 1000 bytes that it claims"):
            decompress(chunk(name, data, 1000))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
    with pytest.raises(ValueError, match=f"at most {MAX_RECORD_BYTES} are read"):
        decompress(chunk("zstd", b"", 1 << 40))
    with pytest.raises(ValueError, match="unknown compression 'brotli'"):
        decompress(chunk("brotli", b"", 1))
    with pytest.raises(ValueError, match="does not have the 5 bytes"):
        decompress(chunk("", b"1234", 5))
    assert decompress(chunk("", b"1234", 4)) == b"1234" and set(DECOMPRESS) == {"", "zstd", "lz4"}


def chunk(compression: str, data: bytes, size: int) -> Chunk:
    return Chunk(compression, data, 0, 0, 0, size)


def test_a_record_of_absurd_length_ends_the_log(tmp_path: Path) -> None:
    path = camera_log(tmp_path / "log.mcap", 20, chunk_size=2048)
    data = bytearray(path.read_bytes())
    start, _ = chunks_of(path)[2]
    struct.pack_into("<Q", data, start - 8, 1 << 60)
    path.write_bytes(bytes(data))
    reports = Reports()
    frames = read_all(open_source(str(path)), reports)
    assert 2 <= len(frames) < 20
    assert "breaks off near byte" in reports.of(CUT)[0] and "exceeds limit" in reports.of(CUT)[0]


def test_the_pictures_of_an_exported_audit_log(tmp_path: Path) -> None:
    with open_log(tmp_path / "audit.log") as log:
        for number in range(5):
            log.append(FrameRecord(frame_id=f"camera/{number}", image=encode_image(picture(number))))
    assert export_log(tmp_path / "audit.log", tmp_path / "drive.mcap") == 5
    frames = read_all(open_source(str(tmp_path / "drive.mcap"), topic="/image"))
    assert len({frame.frame_id for frame in frames}) == 5
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, decode(encode_image(picture(number))))


def mutated_logs(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Read ``count`` damaged logs; return how many gave frames and how many were refused with one line."""
    originals = [
        camera_log(folder / "a.mcap", 6, chunk_size=1024, compression=CompressionType.NONE),
        camera_log(folder / "b.mcap", 6, chunk_size=1024),
        two_cameras(folder / "c.mcap"),
        write_protobuf(folder / "d.mcap", [("/c", START, CompressedImage(data=encoded(picture(0))))]),
    ]
    contents = [(path.read_bytes(), chunks_of(path)) for path in originals]
    randomness, read = random.Random(seed), 0
    path = folder / "mutated.mcap"
    for _ in range(count):
        content, chunks = randomness.choice(contents)
        data = bytearray(content)
        if randomness.random() < 0.5:  # a checksum of 0 is none, so that damage goes further than the chunk
            for start, _ in chunks:
                data[start + 24 : start + 28] = bytes(4)
        for _ in range(randomness.choice((1, 2, 8, 40))):
            data[randomness.randrange(8, len(data))] = randomness.randrange(256)
        path.write_bytes(bytes(data))
        options: dict[str, Any] = {"topic": "/left"} if b"/left" in data else {}
        read += is_read(path, **options)
    return read, count - read


def test_mutated_logs(tmp_path: Path) -> None:
    read, refused = mutated_logs(tmp_path, 300, seed=2)
    assert read > 30 and refused > 10


@pytest.mark.slow
def test_five_thousand_mutated_logs(tmp_path: Path) -> None:
    read, refused = mutated_logs(tmp_path, 5000, seed=3)
    assert read > 500 and refused > 200
