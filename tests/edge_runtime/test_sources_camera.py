"""Cameras that come late, go away, freeze, and change their size."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.sources import Frame, open_source
from edge_runtime.sources.camera import CameraSource, Patience, StillWatch, opened, same
from edge_runtime.sources.frame import BACK, FAILED, FROZEN, LOST, MOVING, RESIZED
from edge_runtime.sources.opencv import opencv
from tests.edge_runtime.source_tools import Reports, picture
from tests.edge_runtime.test_sources_video import video

UNREADABLE = object()


@dataclass
class Clock:
    """A clock that only sleeping and reading frames moves."""

    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, **changes: float) -> Patience:
        return Patience(clock=lambda: self.now, sleep=self.sleep, **changes)  # type: ignore[arg-type]


class Device:
    """A stand-in for cv2.VideoCapture that holds a real descriptor and gives what ``pictures`` holds, then nothing."""

    def __init__(self, pictures: Iterator[Any], clock: Clock, period: float = 0.1) -> None:
        self._pictures, self._clock, self._period = pictures, clock, period
        self._descriptor = os.open(os.devnull, os.O_RDONLY)
        self._picture: Any = None

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        self._clock.now += self._period
        self._picture = next(self._pictures, None)
        return self._picture is not None

    def retrieve(self) -> tuple[bool, Any]:
        readable = self._picture is not UNREADABLE
        return readable, self._picture if readable else None

    def release(self) -> None:
        os.close(self._descriptor)


def camera(clock: Clock, connect: Callable[[], Any], **patience: float) -> CameraSource:
    return CameraSource("camera:0", opencv("a test"), connect, clock.patience(**patience))


def bgr(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture(seed, height, width)[:, :, ::-1])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def take(source: CameraSource, count: int, reports: Reports) -> list[Frame]:
    """Return the next frames of a source, and leave it."""
    with source:
        frames = source.frames(reports, lambda: False)
        found = list(itertools.islice(frames, count))
        frames.close()  # type: ignore[attr-defined]
    return found


def test_frames_in_rgb_with_numbers() -> None:
    clock, reports = Clock(), Reports()
    source = camera(clock, lambda: Device(iter([bgr(0), bgr(1)]), clock))
    first, second = take(source, 2, reports)
    np.testing.assert_array_equal(first.image, picture(0))
    assert (first.frame_id, second.frame_id) == ("camera:0/0", "camera:0/1")
    assert 0 < first.captured_ns <= second.captured_ns
    assert (source.live, source.failed, reports.events) == (True, 0, [])


def test_a_camera_missing_at_the_start_is_waited_for() -> None:
    clock, reports, attempts = Clock(), Reports(), itertools.count(1)

    def connect() -> Device:
        if next(attempts) <= 10:
            raise OSError("/dev/video0 does not exist")
        return Device(iter([bgr(0)]), clock)

    (frame,) = take(camera(clock, connect, longest_wait=8.0), 1, reports)
    assert frame.frame_id == "camera:0/0"
    # 0.5 + 1 + 2 + 4 and six times the cap of 8 seconds, asked for in steps of a tenth.
    assert sum(clock.slept) == pytest.approx(55.5) and max(clock.slept) <= 0.1
    assert reports.events == [
        (LOST, "camera:0: /dev/video0 does not exist; waiting for it"),
        (BACK, "camera:0 gives frames after 55.6 s and 11 attempts"),
    ]


def test_a_thousand_reconnections_leave_no_descriptor() -> None:
    clock, reports, connections = Clock(), Reports(), itertools.count()

    def connect() -> Device:
        number = next(connections)
        if number % 3 == 2:
            raise OSError("busy")
        return Device(iter([bgr(number % 50), bgr(number % 50 + 1)]), clock)

    before = descriptors()
    frames = take(camera(clock, connect), 1400, reports)
    assert len(frames) == 1400 and next(connections) > 1000
    assert descriptors() == before
    assert len({frame.frame_id for frame in frames}) == 1400
    assert reports.names.count(LOST) == reports.names.count(BACK) == 699


def test_a_thousand_reconnections_of_opencv_leave_no_descriptor(tmp_path: Path) -> None:
    clip, clock, reports = str(video(tmp_path / "clip.avi", frames=1, height=16, width=16)), Clock(), Reports()
    source = camera(clock, lambda: opened(cv2.VideoCapture(clip, cv2.CAP_FFMPEG), "no", {}))
    take(source, 3, Reports())  # what OpenCV opens once
    before = descriptors()
    assert len(take(source, 1001, reports)) == 1001
    assert reports.names.count(BACK) == 1000 and descriptors() <= before


@pytest.mark.parametrize("path", ["/dev/video987", os.devnull])
def test_a_device_that_is_no_camera(path: str) -> None:
    clock, reports = Clock(), Reports()
    source = open_source("/dev/video987")
    assert isinstance(source, CameraSource)
    if path == os.devnull:
        source = camera(clock, lambda: opened(cv2.VideoCapture(path, cv2.CAP_V4L2), f"{path} cannot be opened", {}))
    source._patience = clock.patience(longest_wait=1.0)
    asked = itertools.count()
    list(source.frames(Reports(), lambda: next(asked) > 50))
    before = descriptors()
    asked = itertools.count()
    assert list(source.frames(reports, lambda: next(asked) > 12_000)) == []
    assert sum(clock.slept) > 900, "about a thousand attempts"
    assert descriptors() == before
    assert reports.names == [LOST] and path in reports.of(LOST)[0]


def test_stopping_while_waiting() -> None:
    clock, stop_at = Clock(), 103.0

    def connect() -> Device:
        raise OSError("gone")

    source = camera(clock, connect)
    assert list(source.frames(Reports(), lambda: clock.now > stop_at)) == []
    assert clock.now < stop_at + 0.3


def test_stopping_between_frames_releases_the_device() -> None:
    clock, before = Clock(), descriptors()
    source = camera(clock, lambda: Device((bgr(number % 9) for number in itertools.count()), clock))
    assert 15 < len(list(source.frames(Reports(), lambda: clock.now > 102))) < 25
    assert descriptors() == before


def test_a_frozen_camera_is_told_once_and_again_when_it_moves() -> None:
    clock, reports = Clock(), Reports()
    pictures = [bgr(0), *[bgr(1)] * 40, bgr(2), bgr(3)]
    frames = take(camera(clock, lambda: Device(iter(pictures), clock, 0.125)), len(pictures), reports)
    assert reports.events == [
        (FROZEN, "camera:0 has given the same picture for 2.0 s"),
        (MOVING, "camera:0 gives another picture after 5.0 s"),
    ]
    flagged = [number for number, frame in enumerate(frames) if frame.problems]
    assert flagged == list(range(17, 41))
    assert frames[40].problems == ("the same picture for 4.9 s",)


def test_one_pixel_of_noise_is_no_freeze() -> None:
    one, other = picture(0, 64, 64), picture(0, 64, 64).copy()
    assert same(one, other)
    other[33, 33, 1] ^= 1  # not among the rows looked at first
    assert not same(one, other)
    assert not same(one, one[:32])
    watch, reports = StillWatch(2.0), Reports()
    for number in range(100):
        assert watch.observe(one if number % 2 else other, number / 10, "camera", reports) == ()
    assert reports.events == []


def test_frames_of_another_size_are_told_once() -> None:
    clock, reports = Clock(), Reports()
    pictures = [bgr(0), bgr(1, 48, 64), bgr(2), bgr(3, 48, 64), bgr(4, 8, 8)]
    frames = take(camera(clock, lambda: Device(iter(pictures), clock)), 5, reports)
    assert [frame.image.shape[:2] for frame in frames] == [(24, 32), (48, 64), (24, 32), (48, 64), (8, 8)]
    assert reports.of(RESIZED) == [
        "camera:0: frames of 64 x 48 pixels; the first had 32 x 24",
        "camera:0: frames of 8 x 8 pixels; the first had 32 x 24",
    ]


def test_frames_that_cannot_be_decoded_are_counted() -> None:
    clock, reports = Clock(), Reports()
    deep = np.zeros((4, 4, 3), np.uint16)
    pictures = [bgr(0), UNREADABLE, bgr(1), deep, UNREADABLE, np.zeros((4, 4, 2), np.uint8), bgr(2)]
    source = camera(clock, lambda: Device(iter(pictures), clock))
    assert len(take(source, 3, reports)) == 3
    assert source.failed == 4
    assert reports.of(FAILED) == [
        "camera:0: a frame cannot be decoded",
        "camera:0: a frame is uint16 [4, 4, 3]; expected uint8 [H, W, 3]",
        "camera:0: 3 frames in a row could not be read",
    ]


def test_grey_cameras() -> None:
    clock, grey = Clock(), bgr(0)[:, :, 0].copy()
    (frame,) = take(camera(clock, lambda: Device(iter([grey]), clock)), 1, Reports())
    np.testing.assert_array_equal(frame.image, grey[:, :, None].repeat(3, axis=2))


PIPELINE = "gst:videotestsrc num-buffers=3 ! videoconvert ! video/x-raw,format=BGR ! appsink"


def test_pipelines() -> None:
    with pytest.raises(InputError, match=r"'gst:videotestsrc' has no appsink.*end it with '! appsink'"):
        open_source("gst:videotestsrc")
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        with pytest.raises(InputError, match="this OpenCV was built without GStreamer; install the system's"):
            open_source(PIPELINE)
        return
    assert len(take(open_source(PIPELINE), 3, Reports())) == 3


class Recorder:
    """What cv2.VideoCapture was called with, and what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str, opens: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.properties: dict[int, float] = {}
        self.released = 0
        self._opens = opens
        monkeypatch.setattr(cv2, "VideoCapture", self)
        monkeypatch.setattr(cv2, "__version__", version)
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: True)

    def __call__(self, *arguments: Any) -> Recorder:
        self.calls.append(arguments)
        return self

    def set(self, name: int, value: float) -> bool:
        self.properties[name] = value
        return True

    def isOpened(self) -> bool:  # noqa: N802
        return self._opens

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return True, bgr(0)

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(("version", "timeouts"), [("4.6.0", []), ("4.7.0", [53, 2000, 54, 1000]), ("5.0.0", None)])
def test_how_a_pipeline_is_opened(monkeypatch: pytest.MonkeyPatch, version: str, timeouts: list[int] | None) -> None:
    recorder = Recorder(monkeypatch, version)
    assert len(take(open_source(PIPELINE), 2, Reports())) == 2
    ((pipeline, backend, settings),) = recorder.calls
    assert pipeline == PIPELINE.removeprefix("gst:") and backend == cv2.CAP_GSTREAMER and recorder.released == 1
    assert timeouts is None or settings == timeouts


def test_how_a_device_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, "5.0.0")
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    for spec, path in (("camera:3", "/dev/video3"), ("/dev/v4l/by-id/usb-0", "/dev/v4l/by-id/usb-0")):
        (frame,) = take(open_source(spec), 1, Reports())
        assert frame.frame_id == f"{spec}/0"
        assert recorder.calls.pop() == (path, cv2.CAP_V4L2)
    assert recorder.properties == {cv2.CAP_PROP_BUFFERSIZE: 1} and recorder.released == 2


def test_a_capture_that_does_not_open_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, reports = Recorder(monkeypatch, "5.0.0", opens=False), Reports()
    source, asked = open_source(PIPELINE), itertools.count()
    assert list(source.frames(reports, lambda: next(asked) > 2)) == []
    assert recorder.released == len(recorder.calls) == 1
    assert reports.of(LOST) == ["gst: the pipeline does not start; waiting for it"]


def test_names_of_cameras(tmp_path: Path) -> None:
    assert [open_source(spec).name for spec in ("camera:7", "/dev/video12")] == ["camera:7", "/dev/video12"]
    with pytest.raises(InputError, match="'camera:x' is no source"):
        open_source("camera:x")
    with pytest.raises(InputError, match=r"camera:0 is live: boxes\.csv cannot know its frames; use a crop instead"):
        open_source("camera:0", boxes="boxes.csv")
