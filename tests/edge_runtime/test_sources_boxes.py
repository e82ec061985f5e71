"""Files of boxes: read strictly, made to fit leniently."""

from __future__ import annotations

import codecs
import math
import random
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.sources.boxes import READERS, Corners, fit, read_boxes
from edge_runtime.sources.frame import Box

CSV = "frame,x0,y0,x1,y1,label\na.png,1,2,11,12,stop\nb.png,0,0,5.5,4.4,\na.png,20,2,30,12,\n"
JSON = (
    '{"frame": "a.png", "x0": 1, "y0": 2, "x1": 11, "y1": 12, "label": "stop"}\n'
    '\n{"frame": "b.png", "x0": 0, "y0": 0, "x1": 5.5, "y1": 4.4}\n'
    '{"label": null, "frame": "a.png", "x0": 20, "y0": 2, "x1": 30, "y1": 12}\n'
)
TABLE = {
    "a.png": [Corners(1, 2, 11, 12, "stop"), Corners(20, 2, 30, 12)],
    "b.png": [Corners(0, 0, 5.5, 4.4)],
}


def written(folder: Path, text: str | bytes, name: str = "boxes.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", [f"boxes{suffix}" for suffix in READERS])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    found = read_boxes(written(tmp_path, CSV if name.endswith(".csv") else JSON, name))
    assert found == TABLE and list(found) == list(TABLE)


def test_columns_in_any_order_with_bom_and_crlf(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfy1,x1,y0,x0,frame\r\n4,3,2,1,7\r\n"
    assert read_boxes(written(tmp_path, text)) == {"7": [Corners(1, 2, 3, 4)]}


def test_json_lines_with_bom(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b'{"frame": "a", "x0": 1, "y0": 2, "x1": 3, "y1": 4}\n')
    assert read_boxes(path) == {"a": [Corners(1, 2, 3, 4)]}


def test_a_video_frame_may_be_a_number(tmp_path: Path) -> None:
    text = '{"frame": 7, "x0": 1, "y0": 2, "x1": 3, "y1": 4}'
    assert list(read_boxes(written(tmp_path, text, "b.jsonl"))) == ["7"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("frame,x0,y0,x1\n", r"line 1: the header is 'frame,x0,y0,x1'; it must be frame,x0,y0,x1,y1\[,label\]"),
        ("frame,x0,y0,x1,y1,score\n", "line 1: the header"),
        ("frame,x0,y0,x1,y1,x0\n", "line 1: the header"),
        ("", "line 1: the header is ''"),
        ("frame,x0,y0,x1,y1\n", "holds no boxes"),
        ("frame,x0,y0,x1,y1\na,1,2,3,4\n\na,1,2,3\n", "line 4: 4 values for 5 columns"),
        ("frame,x0,y0,x1,y1\na,1,2,3,4,5\n", "line 2: 6 values for 5 columns"),
        ("frame,x0,y0,x1,y1\na,1,2,x,4\n", "line 2: x1 is 'x', no number; correct or remove the line"),
        ("frame,x0,y0,x1,y1\na,1,,3,4\n", "line 2: y0 is '', no number"),
        ("frame,x0,y0,x1,y1\na,1,nan,3,4\n", "line 2: y0 is nan, no pixel"),
        ("frame,x0,y0,x1,y1\na,1,2,inf,4\n", "line 2: x1 is inf, no pixel"),
        ("frame,x0,y0,x1,y1\na,1,2,3,1e300\n", r"line 2: y1 is 1e\+300, no pixel"),
        ("frame,x0,y0,x1,y1\n,1,2,3,4\n", "line 2: no frame is named"),
        ('frame,x0,y0,x1,y1\n"a,1,2,3,4\n', "line 2: unexpected end of data"),
        (b"frame,x0,y0,x1,y1\n\xff,1,2,3,4\n", "is not UTF-8"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_boxes(written(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"frame": "a", "x0": 1, "y0": 2, "x1": 3}', "missing required field `y1`"),
        ('{"frame": "a", "x0": 1, "y0": 2, "x1": 3, "y1": 4, "score": 1}', "unknown field `score`"),
        ('{"frame": "a", "x0": "1", "y0": 2, "x1": 3, "y1": 4}', r"Expected `float`, got `str`"),
        ('{"frame": "a", "x0": NaN, "y0": 2, "x1": 3, "y1": 4}', 'in \'{"frame": "a", "x0": NaN'),
        ('{"frame": "a", "x0": 1e99, "y0": 2, "x1": 3, "y1": 4}', r"x0 is 1e\+99, no pixel"),
        ("[" * 100_000, "line 2: "),
        ("\xff\x00", "line 2: "),
    ],
)
def test_wrong_json_lines(tmp_path: Path, line: str, reason: str) -> None:
    text = JSON.splitlines()[0] + "\n" + line + "\n"
    with pytest.raises(InputError, match=reason) as caught:
        read_boxes(written(tmp_path, text, "boxes.jsonl"))
    assert "boxes.jsonl, line 2: " in str(caught.value) and "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"boxes come as \.csv, \.jsonl, \.ndjson"):
        read_boxes(written(tmp_path, CSV, "boxes.xml"))
    with pytest.raises(InputError, match=r"absent\.csv: No such file or directory; check the path of the boxes"):
        read_boxes(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: Is a directory"):
        read_boxes(tmp_path / "folder.csv")


@pytest.mark.parametrize(("name", "text"), [("boxes.csv", CSV), ("boxes.jsonl", JSON)])
def test_mutated_files_end_in_a_table_or_one_line(tmp_path: Path, name: str, text: str) -> None:
    randomness, refused = random.Random(0), 0
    for _ in range(500):
        data = bytearray(text.encode())
        for _ in range(randomness.randint(1, 4)):
            data[randomness.randrange(len(data))] = randomness.randrange(256)
        try:
            read_boxes(written(tmp_path, bytes(data), name))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 500


@pytest.mark.parametrize(
    ("corners", "box", "problem"),
    [
        (Corners(1, 2, 3, 4, "stop"), Box(1, 2, 3, 4, "stop"), None),
        (Corners(0, 0, 20, 10), Box(0, 0, 20, 10), None),
        (Corners(1.4, 1.5, 2.6, 3.5), Box(1, 2, 3, 4), None),
        (Corners(-3, -4, 5, 6), Box(0, 0, 5, 6), "box -3,-4,5,6 reaches out of the frame of 20 x 10; clipped"),
        (Corners(15, 5, 21, 11), Box(15, 5, 20, 10), "box 15,5,21,11 reaches out of the frame of 20 x 10; clipped"),
        (Corners(20, 0, 25, 5), None, "box 20,0,25,5 lies outside the frame of 20 x 10; dropped"),
        (Corners(-9, 0, 0, 5), None, "box -9,0,0,5 lies outside the frame of 20 x 10; dropped"),
        (Corners(5, 5, 5, 9), None, "box 5,5,5,9 is empty; dropped"),
        (Corners(9, 5, 5, 9), None, "box 9,5,5,9 is empty; dropped"),
        (Corners(5, 5, 5.4, 9), None, "box 5,5,5.4,9 is empty; dropped"),
        (Corners(math.nan, 5, 6, 9), None, "box nan,5,6,9 is not finite; dropped"),
        (Corners(0, -math.inf, 6, 9), None, "box 0,-inf,6,9 is not finite; dropped"),
    ],
)
def test_fit(corners: Corners, box: Box | None, problem: str | None) -> None:
    boxes, problems = fit([corners], 20, 10)
    assert boxes == (() if box is None else (box,))
    assert problems == (() if problem is None else (problem,))


def test_duplicates_are_dropped_once_and_told() -> None:
    same = Corners(1, 2, 3, 4)
    boxes, problems = fit([same, Corners(1, 2, 3, 4, "stop"), same, same], 20, 10)
    assert boxes == (Box(1, 2, 3, 4), Box(1, 2, 3, 4, "stop"))
    assert problems == ("2 boxes are given twice; dropped",)
