"""A live camera: a V4L2 device, or a GStreamer pipeline through OpenCV.

Cameras come late, go away and freeze. The source waits for them, says so once, and goes on when they are back.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.sources.frame import BACK, FAILED, FROZEN, LOST, MOVING, RESIZED, Frame, Report
from edge_runtime.sources.opencv import READ_TIMEOUT_SECONDS, Capture, SizeWatch, opencv, read, to_rgb, version

Pictures = Generator[tuple[NDArray[np.uint8], int], None, None]

TIMEOUTS_SINCE = (4, 7)  # earlier ones refuse to open a pipeline with settings that they do not know
SAMPLE = 16  # every so manieth row and column shows most pictures to differ


@dataclass(frozen=True)
class Patience:
    """Seconds, and the clock that they are measured with: the wait before the first and, doubled each time, at most
    before a further attempt to connect; how long the same picture is no cause for concern."""

    first_wait: float = 0.5
    longest_wait: float = 30.0
    frozen_after: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class CameraSource:
    """Frames of a camera that ``connect`` opens; a frame's id is the camera's name and its number since the start.

    ``connect`` raises OSError with the reason where the camera cannot be opened.
    """

    live = True

    def __init__(self, name: str, cv2: Any, connect: Callable[[], Capture], patience: Patience | None = None) -> None:
        self.name = name
        self.failed = 0
        self._cv2, self._connect = cv2, connect
        self._patience = patience or Patience()
        self._sizes = SizeWatch()
        self._reason = ""

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield frames until ``stopping()``; a camera that is missing or lost is reported once and waited for."""
        patience = self._patience
        wait, attempts, number = patience.first_wait, 0, 0
        lost_at: float | None = None
        still = StillWatch(patience.frozen_after)
        while not stopping():
            attempts += 1
            with contextlib.closing(self._images(report, stopping)) as images:
                for image, captured_ns in images:
                    if lost_at is not None:
                        seconds = patience.clock() - lost_at
                        report(BACK, f"{self.name} gives frames after {seconds:.1f} s and {attempts} attempts")
                    wait, attempts, lost_at = patience.first_wait, 0, None
                    problems = still.observe(image, patience.clock(), self.name, report)
                    yield Frame(f"{self.name}/{number}", image, captured_ns=captured_ns, problems=problems)
                    number += 1
            if stopping():
                return
            if lost_at is None:
                lost_at = patience.clock()
                report(LOST, f"{self.name}: {self._reason}; waiting for it")
            self._pause(wait, stopping)
            wait = min(2 * wait, patience.longest_wait)

    def _images(self, report: Report, stopping: Callable[[], bool]) -> Pictures:
        """Yield the pictures of one connection, each with the time of its arrival, and leave the reason of its end."""
        try:
            capture = self._connect()
        except (OSError, self._cv2.error) as error:
            self._reason = " ".join(str(error).split())
            return
        damaged = 0
        try:
            while not stopping():
                found = read(self._cv2, capture)
                if found is None:
                    self._reason = "gives no frames"
                    return
                arrived, picture = found
                try:
                    image = to_rgb(self._cv2, picture)
                except InputError as error:
                    self.failed += 1
                    damaged += 1
                    if damaged == 1:
                        report(FAILED, f"{self.name}: {error}")
                    continue
                if damaged > 1:
                    report(FAILED, f"{self.name}: {damaged} frames in a row could not be read")
                damaged = 0
                if line := self._sizes.changed(image):
                    report(RESIZED, f"{self.name}: {line}")
                yield image, arrived
        finally:
            capture.release()

    def _pause(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Wait, asking ten times a second whether to stop."""
        end = self._patience.clock() + seconds
        while (left := end - self._patience.clock()) > 0 and not stopping():
            self._patience.sleep(min(left, 0.1))

    def __enter__(self) -> CameraSource:
        return self

    def __exit__(self, *exception: object) -> None:
        """The device is released by ``frames``, however it ends."""


class StillWatch:
    """Notices a camera that gives the same picture again and again: real ones always differ by noise."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._image: NDArray[np.uint8] | None = None
        self._since = 0.0
        self._frozen = False

    def observe(self, image: NDArray[np.uint8], now: float, name: str, report: Report) -> tuple[str, ...]:
        """Take the next picture; report when it starts and stops to be frozen, and return the frame's problem."""
        if self._image is None or not same(self._image, image):
            if self._frozen:
                report(MOVING, f"{name} gives another picture after {now - self._since:.1f} s")
            self._image, self._since, self._frozen = image, now, False
            return ()
        seconds = now - self._since
        if seconds < self._limit:
            return ()
        if not self._frozen:
            self._frozen = True
            report(FROZEN, f"{name} has given the same picture for {seconds:.1f} s")
        return (f"the same picture for {seconds:.1f} s",)


def same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Return whether two pictures are equal; mostly a few rows tell."""
    if one.shape != other.shape or not np.array_equal(one[::SAMPLE, ::SAMPLE], other[::SAMPLE, ::SAMPLE]):
        return False
    return np.array_equal(one, other)


def open_device(spec: str) -> CameraSource:
    """Open ``camera:N``, or a device by its path."""
    cv2 = opencv("a camera")
    number = int(spec.removeprefix("camera:")) if spec.startswith("camera:") else None
    path = spec if number is None else f"/dev/video{number}"

    def connect() -> Capture:
        if sys.platform != "linux":
            return opened(cv2.VideoCapture(path if number is None else number), f"{spec} cannot be opened", {})
        if not os.path.exists(path):
            raise OSError(f"{path} does not exist")
        # The newest frame counts; what waits in the driver is old.
        newest = {cv2.CAP_PROP_BUFFERSIZE: 1.0}
        return opened(cv2.VideoCapture(path, cv2.CAP_V4L2), f"{path} cannot be opened as a camera", newest)

    return CameraSource(spec, cv2, connect)


def open_pipeline(spec: str) -> CameraSource:
    """Open ``gst:PIPELINE``. Raises InputError where OpenCV has no GStreamer, or for a pipeline without appsink."""
    pipeline = spec.removeprefix("gst:")
    if "appsink" not in pipeline:
        raise InputError(f"{spec!r} has no appsink, where OpenCV takes the frames; end it with '! appsink'")
    cv2 = opencv("a GStreamer pipeline")
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise InputError("this OpenCV was built without GStreamer; install the system's (python3-opencv, JetPack's)")
    settings: list[int] = []
    if version(cv2) >= TIMEOUTS_SINCE:
        milliseconds = READ_TIMEOUT_SECONDS * 1000
        settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 2 * milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]

    def connect() -> Capture:
        return opened(cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER, settings), "the pipeline does not start", {})

    return CameraSource("gst", cv2, connect)


def opened(capture: Any, obstacle: str, properties: dict[int, float]) -> Capture:
    """Return the capture with its properties set; raises OSError(obstacle) where it is not open."""
    if not capture.isOpened():
        capture.release()
        raise OSError(obstacle)
    for name, value in properties.items():
        capture.set(name, value)
    usable: Capture = capture
    return usable
