"""A video file through OpenCV, every frame in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.preprocess import check_size
from edge_runtime.sources.frame import CUT, FAILED, RESIZED, Frame, Report
from edge_runtime.sources.opencv import SizeWatch, opencv, read, to_rgb
from edge_runtime.text import encodable

# Containers estimate how many frames they hold; fewer than this share of it is a file that breaks off.
COMPLETE = 0.98
# A frame whose data are no picture at all fails like the end of the file does; so many in a row are the end.
MOST_DAMAGED = 100
CLOSING_SECONDS = 1.0


class VideoSource:
    """The frames of a video; a frame's id is its number, from 0."""

    live = False

    def __init__(self, path: Path) -> None:
        """Open the file. Raises InputError for one that is no video, or of frames too large to be decoded."""
        self.name = encodable(path)
        self.failed = 0
        self._cv2 = cv2 = opencv("a video file")
        self._reading = threading.Lock()
        backend = cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY
        self._capture = cv2.VideoCapture(self.name, backend)
        if not self._capture.isOpened():
            raise InputError(f"{path} cannot be read as a video; check that it is one, and complete")
        width, height = (int(self._capture.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        try:
            check_size(width, height, f"a frame of {path}")
        except InputError:
            self._capture.release()
            raise

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the frames; one that cannot be decoded is reported, counted and passed over, its number with it."""
        number = given = 0
        sizes = SizeWatch()
        while not stopping():
            damaged, found = self._next()
            if found is None:
                break
            if damaged:
                self.failed += damaged
                report(FAILED, f"{self.name}: {damaged} frames from {number} on are damaged")
                number += damaged
            frame_id = str(number)
            number += 1
            arrived, picture = found
            try:
                image = to_rgb(self._cv2, picture)
            except InputError as error:
                self.failed += 1
                report(FAILED, f"{self.name}, frame {frame_id}: {error}")
                continue
            if line := sizes.changed(image):
                report(RESIZED, f"{self.name}, frame {frame_id}: {line}")
            given += 1
            yield Frame(frame_id, image, captured_ns=arrived)
        else:
            return
        if not given:
            raise InputError(f"{self.name} gives no frame; check that it is a complete video")
        claimed = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        if number < COMPLETE * claimed - 1:
            report(CUT, f"{self.name} ends after {number} of about {claimed:.0f} frames; it is damaged or incomplete")

    def _next(self) -> tuple[int, tuple[int, Any] | None]:
        """Return how many damaged frames were passed over, and the frame after them; None at the end of the file."""
        for damaged in range(MOST_DAMAGED + 1):
            with self._reading:
                found = read(self._cv2, self._capture)
            if found is not None:
                return damaged, found
        return 0, None

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file. While another thread still reads a frame that would crash; the file then ends with it."""
        if self._reading.acquire(timeout=CLOSING_SECONDS):
            self._capture.release()
            self._reading.release()
