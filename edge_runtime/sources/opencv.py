"""OpenCV, as video files and cameras need it."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime import extras
from edge_runtime.errors import InputError
from edge_runtime.preprocess import describe

READ_TIMEOUT_SECONDS = 1  # a device that gives nothing for so long is lost; also bounds how long a stop waits
# Read by OpenCV when it is loaded or opens its first device.
ENVIRONMENT = {
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": str(READ_TIMEOUT_SECONDS),
}


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that sources use."""

    def isOpened(self) -> bool: ...  # noqa: N802

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, Any]: ...

    def release(self) -> None: ...


def opencv(user: str) -> Any:
    """Import cv2; raises InputError where it is missing. A Jetson's own OpenCV serves as well."""
    # What goes wrong is reported by the source, once; OpenCV and FFmpeg would write to stderr for every frame. What the
    # user has set stays.
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return extras.library("cv2", "vehicle", user)


def version(cv2: Any) -> tuple[int, int]:
    """Return OpenCV's version, major and minor."""
    major, minor = cv2.__version__.split(".")[:2]
    return int(major), int(minor)


def read(cv2: Any, capture: Capture) -> tuple[int, Any] | None:
    """Return when the next frame arrived (monotonic nanoseconds) and its picture; None where no frame comes any more.

    The picture is None where the frame cannot be decoded.
    """
    try:
        if not capture.grab():
            return None
    except cv2.error:
        return None
    arrived = time.monotonic_ns()
    try:
        decoded, picture = capture.retrieve()
    except cv2.error:
        decoded, picture = False, None
    return arrived, picture if decoded else None


def to_rgb(cv2: Any, image: Any) -> NDArray[np.uint8]:
    """Return OpenCV's BGR or grey picture as RGB uint8 [H, W, 3]; raises InputError for another type or shape."""
    if image is None:
        raise InputError("a frame cannot be decoded")
    conversions = {2: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB}
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in conversions or not image.size:
        found = describe(image) if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"a frame is {found}; expected uint8 [H, W, 3]")
    if image.ndim == 3 and image.shape[2] != 3:
        raise InputError(f"a frame is {describe(image)}; expected uint8 [H, W, 3]")
    converted: NDArray[np.uint8] = cv2.cvtColor(image, conversions[image.ndim])
    return converted


class SizeWatch:
    """Notices frames of another size than those before."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []

    def changed(self, image: NDArray[np.uint8]) -> str | None:
        """Return a line for the first image of each further size, else None."""
        height, width = image.shape[:2]
        if (width, height) in self._sizes:
            return None
        self._sizes.append((width, height))
        if len(self._sizes) == 1:
            return None
        first_width, first_height = self._sizes[0]
        return f"frames of {width} x {height} pixels; the first had {first_width} x {first_height}"
