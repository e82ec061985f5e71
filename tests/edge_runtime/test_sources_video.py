"""Video files: every frame, in RGB, whatever state the file is in."""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime import preprocess
from edge_runtime.errors import InputError
from edge_runtime.sources import open_source
from edge_runtime.sources.frame import CUT, FAILED
from tests.edge_runtime.source_tools import Reports, is_read, picture, read_all

FRAMES = 20


def video(path: Path, codec: str = "MJPG", frames: int = FRAMES, height: int = 64, width: int = 96) -> Path:
    """Write pictures 0, 1, ... as a video."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.ascontiguousarray(picture(number, height, width)[:, :, ::-1]))
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "FFV1")])
def test_every_frame_in_rgb(tmp_path: Path, name: str, codec: str) -> None:
    source, reports = open_source(str(video(tmp_path / name, codec))), Reports()
    frames = read_all(source, reports)
    assert [frame.frame_id for frame in frames] == [str(number) for number in range(FRAMES)]
    for number, frame in enumerate(frames):
        off = np.abs(frame.image.astype(int) - picture(number, 64, 96)).mean()
        assert off < 30, "red and blue exchanged would be off by 60 and more"
        assert codec != "FFV1" or off < 2
    assert (source.live, source.failed, reports.events) == (False, 0, [])


def test_a_real_video(shared_data: Path) -> None:
    path = shared_data / "test_video_1280x720.mp4"
    first, second = (read_all(open_source(str(path))) for _ in range(2))
    assert len(first) == 38 and first[-1].frame_id == "37"
    assert {frame.image.shape for frame in first} == {(720, 1280, 3)}
    assert all(one.image.tobytes() == two.image.tobytes() for one, two in zip(first, second, strict=True))
    # Daylight: the sky in the upper third is bluer than the road below.
    sky, road = first[0].image[:200].mean(axis=(0, 1)), first[0].image[-200:].mean(axis=(0, 1))
    assert sky[2] - sky[0] > road[2] - road[0]


@pytest.mark.parametrize("content", [b"", b"hello world" * 100, bytes(5000)])
def test_files_that_are_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"clip\.mp4 cannot be read as a video"):
        open_source(str(tmp_path / "clip.mp4"))
    with pytest.raises(InputError, match=r"absent\.mp4 does not exist; check the path"):
        open_source(str(tmp_path / "absent.mp4"))


def test_an_mp4_without_its_end_is_no_video(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:-600])  # its index stands at the end
    with pytest.raises(InputError, match="cannot be read as a video; check that it is one, and complete"):
        open_source(str(path))


def test_a_video_that_breaks_off(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    reports = Reports()
    frames = read_all(open_source(str(path)), reports)
    assert 5 < len(frames) < 15
    assert reports.names == [CUT]
    assert "frames; it is damaged or incomplete" in reports.of(CUT)[0]


def test_damaged_frames_are_counted_and_passed_over(tmp_path: Path) -> None:
    """A frame that is no JPEG at all fails as the end of the file does; those after it are frames all the same."""
    path = video(tmp_path / "clip.avi")
    data = bytearray(path.read_bytes())
    starts = [found.start() for found in re.finditer(b"\xff\xd8", data)]
    assert len(starts) == FRAMES
    for number in (5, 6, 7, 12):
        data[starts[number] : starts[number + 1] - 8] = bytes(starts[number + 1] - 8 - starts[number])
    path.write_bytes(data)
    source, reports = open_source(str(path)), Reports()
    frames = read_all(source, reports)
    assert [int(frame.frame_id) for frame in frames] == [0, 1, 2, 3, 4, *range(8, 12), *range(13, FRAMES)]
    assert source.failed == 4
    assert reports.events == [
        (FAILED, f"{path}: 3 frames from 5 on are damaged"),
        (FAILED, f"{path}: 1 frames from 12 on are damaged"),
    ]


def test_stopping(tmp_path: Path) -> None:
    reports = Reports()
    with open_source(str(video(tmp_path / "clip.avi"))) as source:
        frames = source.frames(reports, lambda: False)
        assert next(frames).frame_id == "0"
        frames.close()  # type: ignore[attr-defined]
    with open_source(str(tmp_path / "clip.avi")) as source:
        assert list(source.frames(reports, lambda: True)) == []
    assert reports.events == []


def test_leaving_while_another_thread_reads(tmp_path: Path) -> None:
    source, taken = open_source(str(video(tmp_path / "clip.avi", frames=200))), threading.Event()
    stop = threading.Event()

    def take() -> None:
        for _ in source.frames(Reports(), stop.is_set):
            taken.set()

    with source:
        reader = threading.Thread(target=take)
        reader.start()
        assert taken.wait(60)
        stop.set()
    reader.join(60)
    assert not reader.is_alive()


def test_videos_have_the_limit_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(video(tmp_path / "clip.avi"))
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(InputError, match=r"a frame of .*clip\.avi is 96 x 64 pixels, more than 6,143; scale it down"):
        open_source(path)


def test_boxes_by_frame_number(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text('{"frame": 3, "x0": 1, "y0": 2, "x1": 30, "y1": 40}\n')
    (frame,) = read_all(open_source(str(video(tmp_path / "clip.avi")), boxes=str(boxes)))
    assert frame.frame_id == "3" and frame.boxes[0].y1 == 40


def mutated_videos(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Read ``count`` damaged videos; return how many gave frames and how many were refused with one line."""
    originals = [
        video(folder / f"original{suffix}", codec, frames=6, height=32, width=48)
        for suffix, codec in ((".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "mp4v"))
    ]
    contents = [(path.suffix, path.read_bytes()) for path in originals]
    randomness, read = random.Random(seed), 0
    for _ in range(count):
        suffix, content = randomness.choice(contents)
        data = bytearray(content)
        for _ in range(randomness.choice((1, 4, 20))):
            data[randomness.randrange(len(data))] = randomness.randrange(256)
        path = folder / f"mutated{suffix}"
        path.write_bytes(bytes(data))
        read += is_read(path)
    return read, count - read


def test_mutated_videos(tmp_path: Path) -> None:
    read, refused = mutated_videos(tmp_path, 60, seed=4)
    assert read > 20 and refused > 2


@pytest.mark.slow
def test_two_thousand_mutated_videos(tmp_path: Path) -> None:
    read, refused = mutated_videos(tmp_path, 2000, seed=5)
    assert read > 700 and refused > 70
