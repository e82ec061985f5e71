"""OpenCV's frames: read with their errors, brought to RGB, and quiet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.sources.opencv import ENVIRONMENT, SizeWatch, opencv, read, to_rgb, version
from tests.edge_runtime.source_tools import picture


class Faulty:
    """A capture with one fault."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        if self._fault == "grab":
            raise cv2.error("grab")
        return self._fault != "end"

    def retrieve(self) -> tuple[bool, Any]:
        if self._fault == "retrieve":
            raise cv2.error("retrieve")
        return False, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        raise AssertionError


def test_read() -> None:
    for fault in ("grab", "end"):
        assert read(cv2, Faulty(fault)) is None
    for fault in ("retrieve", "undecodable"):
        found = read(cv2, Faulty(fault))
        assert found is not None and found[0] > 0 and found[1] is None


def test_to_rgb() -> None:
    image = picture(0)
    np.testing.assert_array_equal(to_rgb(cv2, np.ascontiguousarray(image[:, :, ::-1])), image)
    grey = np.ascontiguousarray(image[:, :, 1])
    np.testing.assert_array_equal(to_rgb(cv2, grey), grey[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "a frame cannot be decoded"),
        ("text", r"a frame is str; expected uint8 \[H, W, 3\]"),
        (np.zeros((4, 4, 3), np.uint16), r"a frame is uint16 \[4, 4, 3\]"),
        (np.zeros((4, 4, 2), np.uint8), r"a frame is uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"a frame is uint8 \[0, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"a frame is uint8 \[1, 4, 4, 3\]"),
    ],
)
def test_to_rgb_refuses_other_pictures(image: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        to_rgb(cv2, image)


def test_size_watch() -> None:
    watch = SizeWatch()
    sizes = [(4, 6), (4, 6), (6, 4), (6, 4), (4, 6)]
    told = [watch.changed(np.zeros((*size, 3), np.uint8)) for size in sizes]
    assert told == [None, None, "frames of 4 x 6 pixels; the first had 6 x 4", None, None]


def test_version() -> None:
    assert version(SimpleNamespace(__version__="4.8.0-dev")) == (4, 8)
    assert version(cv2) >= (4, 10)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "INFO")
    assert opencv("a test") is cv2
    assert {name: os.environ[name] for name in ENVIRONMENT} == {**ENVIRONMENT, "OPENCV_LOG_LEVEL": "INFO"}


def test_nothing_reaches_stderr(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 100)
    script = (
        "import sys\n"
        "from edge_runtime.sources.opencv import opencv\n"
        "cv2 = opencv('a test')\n"
        "assert not cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG).isOpened()\n"
        "assert not cv2.VideoCapture('/dev/null', cv2.CAP_V4L2).isOpened()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "clip.mp4")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
