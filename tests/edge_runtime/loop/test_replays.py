"""Replays of real files, whole and damaged: twice the same records, and every frame accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.log import Record
from edge_runtime.loop import VehicleLoop
from edge_runtime.sources import open_source
from edge_runtime.sources.crops import classifier_input
from tests.edge_runtime.loop.loop_tools import QUICK, balanced, comparable, events, frames, open_audit_log
from tests.edge_runtime.mcap_tools import camera_log
from tests.edge_runtime.source_tools import image_folder, picture, read_all

FRAMES = 24


def folder_with_a_broken_image(where: Path) -> str:
    folder = image_folder(where / "images", FRAMES)
    broken = sorted(folder.iterdir())[10]
    broken.write_bytes(broken.read_bytes()[:60])
    return str(folder)


def robot_log(where: Path) -> str:
    return str(camera_log(where / "drive.mcap", FRAMES))


def robot_log_cut_short(where: Path) -> str:
    path = camera_log(where / "cut.mcap", FRAMES, chunk_size=1024)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return str(path)


def video(where: Path) -> str:
    path = where / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (32, 24))
    for number in range(FRAMES):
        writer.write(picture(number))
    writer.release()
    return str(path)


SOURCES: dict[str, Callable[[Path], str]] = {
    "folder": folder_with_a_broken_image,
    "log": robot_log,
    "cut log": robot_log_cut_short,
    "video": video,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("boxed", [False, True])
def test_a_replay_repeats_itself(tiny: Bundle, tmp_path: Path, kind: str, boxed: bool) -> None:
    spec, boxes = SOURCES[kind](tmp_path), None
    names = [frame.frame_id for frame in read_all(open_source(spec))]
    if boxed:
        boxes = tmp_path / "boxes.csv"
        lines = [f"{name},{x},2,{x + 9},15" for name in names[::2] for x in (1, 12)]
        boxes.write_text("\n".join(["frame,x0,y0,x1,y1", *lines, "no such frame,0,0,5,5"]))
    found: list[list[Record]] = []
    for attempt in ("first", "second"):
        source = open_source(spec, boxes=None if boxes is None else str(boxes))
        log = open_audit_log(tmp_path / attempt, tiny)
        summary = VehicleLoop(tiny, source, QUICK, log=log).run()
        assert balanced(summary)
        found.append(comparable(tmp_path / attempt))
    assert found[0] == found[1]
    expected = [f"{name}#{index}" for name in names[::2] for index in (0, 1)] if boxed else names
    assert [frame.frame_id for frame in frames(tmp_path / "first")] == expected
    told = {event.name for event in events(tmp_path / "first")}
    assert told >= {"started", "stopped"}
    assert ("frame-failed" in told) == (kind == "folder")
    assert ("source-cut" in told) == (kind == "cut log")
    assert ("boxes" in told) == boxed


def test_the_loop_classifies_what_the_source_shows(tiny: Bundle, tmp_path: Path) -> None:
    """The probabilities in the log are those of the classifier on the source's own frames, to the last bit."""
    from edge_runtime.classifier import Classifier

    spec = robot_log(tmp_path)
    VehicleLoop(tiny, open_source(spec), QUICK, log=open_audit_log(tmp_path / "log", tiny)).run()
    classifier = Classifier(tiny, threads=1)
    expected = [
        float(classifier.classify(classifier_input(frame, tiny.manifest.input)).probability[0])
        for frame in read_all(open_source(spec))
    ]
    assert [frame.probability for frame in frames(tmp_path / "log")] == expected
