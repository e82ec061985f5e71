"""Boxes and crops meet frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.sources import Box, open_source
from edge_runtime.sources.boxed import MOST_PROBLEMS, BoxedSource, Crop, CroppedSource, parse_crop
from edge_runtime.sources.boxes import BoxTable, Corners
from edge_runtime.sources.frame import BOXES, FAILED, RESIZED
from tests.edge_runtime.source_tools import Reports, encoded, image_folder, picture, read_all

ONE = Corners(1, 2, 11, 12, "stop")
OUTSIDE = Corners(100, 100, 110, 110)


def boxed(folder: Path, table: BoxTable) -> BoxedSource:
    return BoxedSource(open_source(str(folder)), table, "boxes.csv")


def test_boxes_join_by_frame(tmp_path: Path) -> None:
    reports = Reports()
    table = {"000.png": [ONE], "001.png": [ONE, OUTSIDE]}
    first, second = read_all(boxed(image_folder(tmp_path, 2), table), reports)
    assert first.boxes == second.boxes == (Box(1, 2, 11, 12, "stop"),)
    assert first.problems == ()
    assert second.problems == ("box 100,100,110,110 lies outside the frame of 32 x 24; dropped",)
    assert reports.events == []


def test_frames_without_boxes_and_boxes_without_frames_are_counted(tmp_path: Path) -> None:
    reports = Reports()
    table = {"001.png": [ONE], "x.png": [ONE, ONE], "y.png": [ONE]}
    source = boxed(image_folder(tmp_path, 3), table)
    assert [frame.frame_id for frame in read_all(source, reports)] == ["001.png"]
    assert reports.of(BOXES) == [
        f"2 frames of {tmp_path} have no boxes in boxes.csv and were left out",
        "3 boxes of boxes.csv belong to 2 frames that did not come; first: 'x.png'",
    ]
    assert source.failed == 0


def test_a_frame_without_usable_box_has_failed(tmp_path: Path) -> None:
    reports = Reports()
    image_folder(tmp_path, 3)
    (tmp_path / "002.png").write_bytes(b"damaged")
    source = boxed(tmp_path, {"000.png": [OUTSIDE], "001.png": [ONE]})
    assert [frame.frame_id for frame in read_all(source, reports)] == ["001.png"]
    assert source.failed == 2 and reports.of(FAILED)[0].startswith("000.png: box 100,100,110,110 lies outside")


def test_a_frame_tells_only_so_many_problems(tmp_path: Path) -> None:
    many = [Corners(100 + number, 0, 200, 9) for number in range(MOST_PROBLEMS + 5)]
    (frame,) = read_all(boxed(image_folder(tmp_path, 1), {"000.png": [ONE, *many]}))
    assert len(frame.boxes) == 1 and len(frame.problems) == MOST_PROBLEMS + 1
    assert frame.problems[-1] == "5 more problems with boxes"


def test_boxes_of_another_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"boxes name frames like '0', the last frame is '001\.png'; name them alike"):
        read_all(boxed(image_folder(tmp_path, 2), {"0": [ONE]}))


def test_an_early_stop_judges_nothing(tmp_path: Path) -> None:
    reports = Reports()
    with boxed(image_folder(tmp_path, 2), {"001.png": [ONE]}) as source:
        assert list(source.frames(reports, lambda: True)) == []
    assert reports.events == []


def test_the_same_crop_for_every_frame(tmp_path: Path) -> None:
    reports = Reports()
    frames = read_all(open_source(str(image_folder(tmp_path, 2)), crop="4,6,20,22"), reports)
    assert [frame.boxes for frame in frames] == [(Box(4, 6, 20, 22),)] * 2 and reports.events == []


def test_a_crop_that_does_not_fit_is_told_once_per_size(tmp_path: Path) -> None:
    for name, side in (("a", 32), ("b", 16), ("c", 16), ("d", 8), ("e", 8)):
        (tmp_path / f"{name}.png").write_bytes(encoded(picture(0, side, side)))
    reports, source = Reports(), CroppedSource(open_source(str(tmp_path)), parse_crop("8,8,24,24"))
    frames = read_all(source, reports)
    assert [frame.boxes[0].x1 for frame in frames] == [24, 16, 16]
    assert [len(frame.problems) for frame in frames] == [0, 1, 1]
    assert source.failed == 2
    assert reports.of(RESIZED) == [
        "b.png: the crop: box 8,8,24,24 reaches out of the frame of 16 x 16; clipped",
        "d.png: the crop: box 8,8,24,24 lies outside the frame of 8 x 8; dropped",
    ]


def test_parse_crop() -> None:
    assert parse_crop("1,2,3,4") == Crop(pixels=Corners(1, 2, 3, 4))
    assert parse_crop(" 0.5 ") == Crop(fraction=0.5)
    assert parse_crop("0.5").corners(30, 21) == Corners(7, 5, 22, 15)
    assert parse_crop("1").corners(30, 20) == Corners(0, 0, 30, 20)
    assert parse_crop("0.001").corners(3, 1) == Corners(1, 0, 2, 1)


@pytest.mark.parametrize(
    "text", ["", "0", "-0.5", "1.5", "nan", "inf", "1,2,3", "3,2,1,4", "1,2,3,2", "-1,0,3,4", "0,0,1.5,2", "a,b,c,d"]
)
def test_a_wrong_crop(text: str) -> None:
    with pytest.raises(InputError, match="give x0,y0,x1,y1 in pixels"):
        parse_crop(text)
