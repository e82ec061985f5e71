"""The loop's background: reads the device once a second and shows the loop three times a second, at low priority."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_runtime.device import DeviceReadings, DeviceSampler
from edge_runtime.live import PICTURES, LiveStatus, LiveWriter
from edge_runtime.loop.board import Pictures

SHOW_SECONDS = 1 / 3
DEVICE_SECONDS = 1.0
CLOSING_SECONDS = 1.0
# Of the thread alone, as Linux allows: what is shown must never take the processor from what is driven by.
NICENESS = 15
JPEG_QUALITY = 80
LONGEST_SIDE = 960  # of the frame shown: enough for a phone


@dataclass(frozen=True)
class Window:
    """What the housekeeper shows: where to, the status of now, and the pictures of now (None: none at present)."""

    writer: LiveWriter
    status: Callable[[], LiveStatus]
    pictures: Callable[[], Pictures | None]


class Housekeeper:
    """A thread that calls ``sensed`` with new readings of the device and keeps the ``window`` up to date."""

    def __init__(
        self, sampler: DeviceSampler | None, sensed: Callable[[DeviceReadings], None], window: Window | None
    ) -> None:
        self.problem: str | None = None  # of the last attempt to show
        self._sampler = sampler
        self._sensed = sensed
        self._window = window
        self._shown = Pictures()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="housekeeper", daemon=True)

    def __enter__(self) -> Housekeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # a system without priorities for threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        read_at = -DEVICE_SECONDS
        while True:
            if self._sampler is not None and time.monotonic() - read_at >= DEVICE_SECONDS:
                read_at = time.monotonic()
                self._sensed(self._sampler.read())
            self._show()
            if self._closing.wait(SHOW_SECONDS):
                self._show()  # the last word: why the loop ended
                return

    def _show(self) -> None:
        # This thread also reads the temperature that the ladder goes by: nothing that cannot be shown may end it.
        try:
            self.problem = self._shown_now()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"

    def _shown_now(self) -> str | None:
        """Show the present; return the reason where that fails."""
        if self._window is None:
            return None
        pictures = self._window.pictures()
        encoded = {} if pictures is None else self._encoded(pictures)
        return self._window.writer.write(self._window.status(), encoded)

    def _encoded(self, pictures: Pictures) -> dict[str, bytes]:
        """Return those pictures as JPEG that were not shown yet."""
        frame_name, overlay_name = PICTURES
        found = {}
        if pictures.frame is not None and pictures.frame is not self._shown.frame:
            found[frame_name] = jpeg(pictures.frame)
        if pictures.image is not None and pictures.saliency is not None and pictures.image is not self._shown.image:
            from edge_runtime.overlay import blend, enlarge

            found[overlay_name] = jpeg(blend(enlarge(pictures.image), pictures.saliency))
        self._shown = pictures
        return found


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Return the image uint8 [H, W, 3] as JPEG, neither side above LONGEST_SIDE."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()
