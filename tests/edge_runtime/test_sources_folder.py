"""Image files as frames: order, names, and what happens to damaged ones."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.sources import open_source
from edge_runtime.sources.frame import FAILED
from tests.edge_runtime.source_tools import Reports, encoded, image_folder, picture, read_all


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name, seed, kind in (("b.jpg", 1, "JPEG"), ("a.PNG", 0, "PNG"), ("c.ppm", 2, "PPM"), ("d.webp", 3, "WEBP")):
        (tmp_path / name).write_bytes(encoded(picture(seed), kind))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    source = open_source(str(tmp_path))
    frames = read_all(source)
    assert [frame.frame_id for frame in frames] == ["a.PNG", "b.jpg", "c.ppm", "d.webp"]
    np.testing.assert_array_equal(frames[0].image, picture(0))
    np.testing.assert_array_equal(frames[2].image, picture(2))
    assert (source.live, source.failed, source.name) == (False, 0, str(tmp_path))
    times = [frame.captured_ns for frame in frames]
    assert times == sorted(times) and times[0] > 0
    assert all(frame.boxes == () and frame.problems == () for frame in frames)


def test_class_folders_and_a_single_image(tmp_path: Path) -> None:
    image_folder(tmp_path / "00001", 2)
    image_folder(tmp_path / "00000", 1, seed=7)
    assert [frame.frame_id for frame in read_all(open_source(str(tmp_path)))] == [
        "00000/000.png",
        "00001/000.png",
        "00001/001.png",
    ]
    (frame,) = read_all(open_source(str(tmp_path / "00000" / "000.png")))
    assert frame.frame_id == "000.png"
    np.testing.assert_array_equal(frame.image, picture(7))


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """Such names come off old disks; a log and a page hold UTF-8 only."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    image_folder(folder, 1)
    (folder / "000.png").rename(folder / os.fsdecode(b"sign \xe9.png"))
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    source, reports = open_source(str(folder)), Reports()
    assert [frame.frame_id for frame in read_all(source, reports)] == ["sign \\xe9.png"]
    assert source.name.endswith("caf\\xe9")
    assert "bad\\xff.png cannot be read" in reports.of(FAILED)[0]
    assert [frame.frame_id for frame in read_all(open_source(str(tmp_path)))] == ["caf\\xe9/sign \\xe9.png"]
    (frame,) = read_all(open_source(str(folder / os.fsdecode(b"sign \xe9.png"))))
    assert frame.frame_id == "sign \\xe9.png"


def test_damaged_files_are_named_counted_and_passed_over(tmp_path: Path) -> None:
    image_folder(tmp_path, 4)
    (tmp_path / "001.png").write_bytes(encoded(picture(1))[:90])
    (tmp_path / "002.png").write_bytes(b"")
    source, reports = open_source(str(tmp_path)), Reports()
    assert [frame.frame_id for frame in read_all(source, reports)] == ["000.png", "003.png"]
    assert source.failed == 2 and reports.names == [FAILED, FAILED]
    assert all(name in message for name, message in zip(("001.png", "002.png"), reports.of(FAILED), strict=True))


def test_a_file_that_vanishes_after_opening(tmp_path: Path) -> None:
    source, reports = open_source(str(image_folder(tmp_path, 2))), Reports()
    (tmp_path / "000.png").unlink()
    assert [frame.frame_id for frame in read_all(source, reports)] == ["001.png"]
    assert reports.of(FAILED) == [f"{tmp_path / '000.png'} does not exist; check the path"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        open_source(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"none of the 1 images of .* can be read"):
        read_all(open_source(str(tmp_path)))


def test_stopping(tmp_path: Path) -> None:
    source = open_source(str(image_folder(tmp_path, 5)))
    asked = itertools.count(1)
    with source:
        assert len(list(source.frames(Reports(), lambda: next(asked) > 2))) == 2


def test_twice_the_same(tmp_path: Path) -> None:
    first, second = (read_all(open_source(str(image_folder(tmp_path, 3)))) for _ in range(2))
    assert [frame.frame_id for frame in first] == [frame.frame_id for frame in second]
    assert all(np.array_equal(one.image, two.image) for one, two in zip(first, second, strict=True))
