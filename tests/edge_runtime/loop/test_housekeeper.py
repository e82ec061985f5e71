"""The housekeeper: device readings and pictures, at low priority, and never a reason to stop."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_runtime.device import DeviceReadings
from edge_runtime.live import Counts, LiveStatus, LiveWriter, read_live, read_picture
from edge_runtime.loop.board import Pictures
from edge_runtime.loop.housekeeper import LONGEST_SIDE, NICENESS, Housekeeper, Window, jpeg

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


class Sampler:
    """A device that gets hotter with every reading, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self) -> DeviceReadings:
        self.asked.append(threading.get_native_id())
        return DeviceReadings(hottest_celsius=40.0 + len(self.asked))


def status() -> LiveStatus:
    return LiveStatus(
        written_wall=time.time(),
        boot_monotonic=time.monotonic(),
        started_wall=0.0,
        process=os.getpid(),
        state="running",
        bundle="tiny",
        digest="",
        source="arrays",
        provider="cpu",
        counts=Counts(),
    )


def wait_until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_it_reads_the_device_and_shows_status_and_pictures(tmp_path: Path) -> None:
    sampler, readings = Sampler(), []
    pictures = Pictures(PICTURE, PICTURE, PICTURE[:, :, 0].astype(np.float32), "vg")
    window = Window(LiveWriter(tmp_path), status, lambda: pictures)
    with Housekeeper(sampler, readings.append, window):  # type: ignore[arg-type]
        wait_until(tmp_path / "status.json")
        if hasattr(os, "getpriority"):
            assert os.getpriority(os.PRIO_PROCESS, sampler.asked[0]) >= NICENESS
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < NICENESS
    assert readings[0].hottest_celsius == 41.0
    assert read_live(tmp_path) is not None
    for name in ("frame.jpg", "overlay.jpg"):
        data = read_picture(tmp_path, name)
        assert data is not None
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"


def test_a_picture_is_written_once(tmp_path: Path) -> None:
    pictures = Pictures(PICTURE)
    with Housekeeper(None, print, Window(LiveWriter(tmp_path), status, lambda: pictures)):
        wait_until(tmp_path / "frame.jpg")
        (tmp_path / "frame.jpg").unlink()
        time.sleep(0.8)
    assert not (tmp_path / "frame.jpg").exists()
    assert not (tmp_path / "overlay.jpg").exists()


def test_without_pictures_the_status_is_still_shown(tmp_path: Path) -> None:
    with Housekeeper(None, print, Window(LiveWriter(tmp_path), status, lambda: None)):
        wait_until(tmp_path / "status.json")
    assert read_picture(tmp_path, "frame.jpg") is None


def test_a_live_folder_that_fails_is_a_problem_not_an_end(tmp_path: Path) -> None:
    writer = LiveWriter(tmp_path / "live")
    keeper = Housekeeper(None, print, Window(writer, status, lambda: None))
    with keeper:
        wait_until(tmp_path / "live" / "status.json")
        (tmp_path / "live" / "status.json").unlink()
        (tmp_path / "live" / "status.json").mkdir()
    assert keeper.problem is not None


def test_what_cannot_be_shown_ends_nothing(tmp_path: Path) -> None:
    """The ladder goes by the temperature that the same thread reads."""

    def unreadable() -> LiveStatus:
        return msgspec.structs.replace(status(), source="\udce9.png")  # no JSON can hold it

    sampler, readings = Sampler(), []
    keeper = Housekeeper(sampler, readings.append, Window(LiveWriter(tmp_path), unreadable, lambda: None))  # type: ignore[arg-type]
    with keeper:
        deadline = time.monotonic() + 30
        while len(readings) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(readings) >= 2
    assert keeper.problem is not None and "UnicodeEncodeError" in keeper.problem


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (4000, 30), (10, 10)])
def test_frames_are_shown_at_a_size_for_phones(height: int, width: int) -> None:
    with Image.open(io.BytesIO(jpeg(np.zeros((height, width, 3), np.uint8)))) as picture:
        assert max(picture.size) == min(LONGEST_SIDE, max(height, width))
