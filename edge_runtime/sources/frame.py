"""One frame, its boxes, and what every source of frames promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Box:
    """Where a sign stands: pixels, ``x1`` and ``y1`` exclusive; ``label`` is the true one where it is known."""

    x0: int
    y0: int
    x1: int
    y1: int
    label: str | None = None


@dataclass(frozen=True)
class Frame:
    """One picture: ``image`` uint8 [H, W, 3] RGB, in the source's own size.

    ``frame_id`` names it for ever: the file's name, the number in a video, topic and time in a robot log. A replay
    gives the same ones. ``boxes`` lie inside the image; empty means: classify the whole frame. ``captured_ns`` is the
    monotonic clock when the frame arrived, ``problems`` what was wrong with it and mended.
    """

    frame_id: str
    image: NDArray[np.uint8]
    boxes: tuple[Box, ...] = ()
    captured_ns: int = 0
    problems: tuple[str, ...] = field(default=())


Report = Callable[[str, str], None]  # name of the event, message

# The events that sources report.
FAILED = "frame-failed"  # a frame that could not be read
RESIZED = "frame-size"  # frames of another size than before
BOXES = "boxes"  # boxes or frames without the other
CUT = "source-cut"  # a file that breaks off or is damaged inside
LOST = "source-lost"  # no camera, or not any more
BACK = "source-back"  # frames flow (again)
FROZEN = "source-frozen"  # the same picture for too long
MOVING = "source-moving"  # and another at last


class Source(Protocol):
    """Frames in order. A source is a context manager; leaving it releases devices and files.

    ``live`` sources lose what nobody takes in time (a camera); the others (replay) wait, and give every frame. What
    goes wrong with one frame, or for a while, is told to ``report`` and the source goes on; ``failed`` counts the
    frames that existed but could not be read. Raises InputError only when it never can give a frame.
    """

    @property
    def name(self) -> str:
        """What the source is called in messages."""
        ...

    @property
    def live(self) -> bool:
        """Whether frames that nobody takes in time are lost."""
        ...

    @property
    def failed(self) -> int:
        """Frames that existed but could not be read or used, so far."""
        ...

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield frames until the source ends or ``stopping()`` is true; who waits asks ten times a second."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *exception: object) -> None: ...
