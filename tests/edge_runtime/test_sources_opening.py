"""What a source may be called, and one line for everything else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.sources import open_source
from edge_runtime.sources.opening import KINDS
from tests.edge_runtime.source_tools import image_folder, read_all


@pytest.mark.parametrize("spec", ["", "ftp://host/video", "notes.txt", "camera", "absent-folder"])
def test_an_unknown_source_names_every_kind(spec: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(spec)
    message = str(caught.value)
    assert message.startswith(f"{spec!r} is no source; name ") and "\n" not in message
    assert all(kind.usage in message for kind in KINDS.values())


def test_files_and_folders_in_shared_memory_are_no_camera() -> None:
    """A camera would be waited for."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("this machine has no shared memory to write to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source = open_source(str(image_folder(Path(folder) / "drive", 2)))
        assert not source.live and len(read_all(source)) == 2
        assert not open_source(f"{folder}/drive/000.png").live


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png does not exist; check the path"):
        open_source(str(tmp_path / "absent.png"))


def test_boxes_and_crop_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"both boxes \(a\.csv\) and a crop \(0\.5\) are given; choose one"):
        open_source(str(image_folder(tmp_path, 1)), boxes="a.csv", crop="0.5")


def test_boxes_and_crop_reach_the_frames(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", 2)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("frame,x0,y0,x1,y1\n001.png,1,2,5,6\n")
    (frame,) = read_all(open_source(str(folder), boxes=str(boxes)))
    assert (frame.frame_id, frame.boxes[0].x1) == ("001.png", 5)
    assert [len(frame.boxes) for frame in read_all(open_source(str(folder), crop="0.5"))] == [1, 1]
