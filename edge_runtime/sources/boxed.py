"""Sources whose frames get boxes: from a table of boxes, or the same crop for every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from edge_runtime.errors import InputError
from edge_runtime.sources.boxes import BoxTable, Corners, fit
from edge_runtime.sources.frame import BOXES, FAILED, RESIZED, Frame, Report, Source

MOST_PROBLEMS = 8  # of one frame; its record in the log has to stay small


class BoxedSource:
    """The frames of ``source`` that ``table`` has boxes for; the others show no sign and are left out, and counted.

    A frame of whose boxes none can be used counts as failed.
    """

    def __init__(self, source: Source, table: BoxTable, origin: str) -> None:
        """``origin`` names the boxes in messages."""
        self.name, self.live = source.name, source.live
        self._source, self._table, self._origin = source, table, origin
        self._unusable = 0

    @property
    def failed(self) -> int:
        """Frames that could not be read or had no usable box."""
        return self._source.failed + self._unusable

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the frames that have boxes; at the end report what had no counterpart."""
        unused = dict.fromkeys(self._table)
        left_out = 0
        last = ""
        for frame in self._source.frames(report, stopping):
            last = frame.frame_id
            unused.pop(last, None)
            if last not in self._table:
                left_out += 1
                continue
            boxed = with_boxes(frame, self._table[last])
            if boxed.boxes:
                yield boxed
            else:
                self._unusable += 1
                report(FAILED, f"{last}: {'; '.join(boxed.problems)}")
        if stopping():
            return
        if len(unused) == len(self._table):
            raise InputError(
                f"no box of {self._origin} belongs to a frame of {self.name}: the boxes name frames like "
                f"{next(iter(self._table))!r}, the last frame is {last!r}; name them alike"
            )
        if left_out:
            report(BOXES, f"{left_out} frames of {self.name} have no boxes in {self._origin} and were left out")
        if unused:
            count = sum(len(self._table[name]) for name in unused)
            first = next(iter(unused))
            report(
                BOXES,
                f"{count} boxes of {self._origin} belong to {len(unused)} frames that did not come; first: {first!r}",
            )

    def __enter__(self) -> BoxedSource:
        self._source.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._source.__exit__(*exception)


@dataclass(frozen=True)
class Crop:
    """The same part of every frame: pixels, or the centre's ``fraction`` of width and height."""

    pixels: Corners | None = None
    fraction: float = 1.0

    def corners(self, width: int, height: int) -> Corners:
        """Return the part of a frame of ``width`` x ``height`` pixels."""
        if self.pixels is not None:
            return self.pixels
        # At least one pixel, however small the frame.
        crop_width, crop_height = (max(1, round(side * self.fraction)) for side in (width, height))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return Corners(left, top, left + crop_width, top + crop_height)


def parse_crop(text: str) -> Crop:
    """Read ``x0,y0,x1,y1`` (pixels, x1 and y1 exclusive) or the centre's fraction (0.5: half the width and height).

    Raises InputError for anything else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and 0 < numbers[0] <= 1:
        return Crop(fraction=numbers[0])
    if len(numbers) == 4 and all(number.is_integer() for number in numbers):
        x0, y0, x1, y1 = numbers
        if 0 <= x0 < x1 and 0 <= y0 < y1:
            return Crop(pixels=Corners(x0, y0, x1, y1))
    raise InputError(
        f"crop is {text!r}; give x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1, or the centre's fraction (0 to 1)"
    )


class CroppedSource:
    """The frames of ``source``, each with the same crop as its box."""

    def __init__(self, source: Source, crop: Crop) -> None:
        self.name, self.live = source.name, source.live
        self._source, self._crop = source, crop
        self._outside = 0

    @property
    def failed(self) -> int:
        """Frames that could not be read or are too small for the crop."""
        return self._source.failed + self._outside

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the frames; a size that the crop does not fit is reported once."""
        told: set[tuple[int, int]] = set()
        for frame in self._source.frames(report, stopping):
            height, width = frame.image.shape[:2]
            cropped = with_boxes(frame, [self._crop.corners(width, height)])
            if len(cropped.problems) > len(frame.problems) and (width, height) not in told:
                told.add((width, height))
                report(RESIZED, f"{frame.frame_id}: the crop: {cropped.problems[-1]}")
            if cropped.boxes:
                yield cropped
            else:
                self._outside += 1

    def __enter__(self) -> CroppedSource:
        self._source.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._source.__exit__(*exception)


def with_boxes(frame: Frame, corners: list[Corners]) -> Frame:
    """Return the frame with those of the boxes that fit it, and problems for the others, MOST_PROBLEMS of them told."""
    height, width = frame.image.shape[:2]
    boxes, problems = fit(corners, width, height)
    if len(problems) > MOST_PROBLEMS:
        problems = (*problems[:MOST_PROBLEMS], f"{len(problems) - MOST_PROBLEMS} more problems with boxes")
    return replace(frame, boxes=boxes, problems=frame.problems + problems)
