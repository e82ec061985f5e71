"""Sources in the vehicle loop: a replay gives the same records, with what was wrong with the frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.log import FrameRecord
from edge_runtime.sources import open_source
from edge_runtime.sources.frame import BOXES, CUT, FAILED
from tests.edge_runtime.loop.loop_tools import balanced, events, frames, records, run
from tests.edge_runtime.mcap_tools import START, camera_log, detections, ros_compressed, write_ros
from tests.edge_runtime.source_tools import encoded, image_folder, picture
from tests.edge_runtime.test_sources_video import video


def signs_log(path: Path) -> Path:
    """Write a robot log of twelve pictures, one of them damaged, with detections, and cut the last third off."""
    stamps = [START + number * 100_000_000 for number in range(12)]
    messages = []
    for number, stamp in enumerate(stamps):
        data = encoded(picture(number), "JPEG")
        image = ros_compressed(data[:150] if number == 4 else data, stamp_ns=stamp)
        messages.append(("/camera", "sensor_msgs/msg/CompressedImage", stamp, image))
        found = detections(stamp, (10, 8, 12, 10), (28, 12, 16, 8))
        messages.append(("/detections", "vision_msgs/msg/Detection2DArray", stamp + 50, found))
    whole = write_ros(path, messages, chunk_size=512).read_bytes()
    path.write_bytes(whole[: len(whole) * 7 // 10])
    return path


def boxes_file(path: Path) -> Path:
    path.write_text("frame,x0,y0,x1,y1,label\n001.png,1,2,20,22,stop\n002.png,-4,2,20,22,stop\n7.png,1,2,3,4,\n")
    return path


def sources(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return specifications of every kind that is replayed, with their options."""
    images = image_folder(folder / "images", 4)
    (images / "003.png").write_bytes(b"damaged")
    return {
        "folder": (str(images), {"boxes": str(boxes_file(folder / "boxes.csv"))}),
        "video": (str(video(folder / "clip.avi")), {"crop": "0.5"}),
        "log": (str(camera_log(folder / "plain.mcap", 9)), {}),
        "cut log with detections": (str(signs_log(folder / "signs.mcap")), {"boxes": "topic:/detections"}),
    }


def comparable(path: Path) -> list[Any]:
    """Return a log's records without what depends on the clock."""
    return [
        msgspec.structs.replace(record, latency_ms={}, device=None) if isinstance(record, FrameRecord) else record
        for record in records(path)
    ]


@pytest.mark.parametrize("kind", ["folder", "video", "log", "cut log with detections"])
def test_two_replays_give_the_same_records(tiny: Bundle, tmp_path: Path, kind: str) -> None:
    spec, options = sources(tmp_path)[kind]
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    for log in logs:
        summary = run(tiny, open_source(spec, **options), log)
        assert balanced(summary) and summary.counts.dropped == 0
    assert frames(logs[0])
    assert comparable(logs[0]) == comparable(logs[1])


def test_what_was_wrong_stands_in_the_log(tiny: Bundle, tmp_path: Path) -> None:
    spec, options = sources(tmp_path)["folder"]
    log = tmp_path / "audit.log"
    summary = run(tiny, open_source(spec, **options), log)
    first, second = frames(log)
    assert (first.frame_id, first.box, first.truth, first.flags) == ("001.png", (1, 2, 20, 22), "stop", ())
    assert second.box == (0, 2, 20, 22)
    assert second.flags == ("box -4,2,20,22 reaches out of the frame of 32 x 24; clipped",)
    assert [event.name for event in events(log)] == ["started", FAILED, BOXES, BOXES, "stopped"]
    assert (summary.counts.processed, summary.counts.failed, summary.counts.produced) == (2, 1, 3)


def test_a_cut_log_is_told_and_its_damaged_picture_counted(tiny: Bundle, tmp_path: Path) -> None:
    spec, options = sources(tmp_path)["cut log with detections"]
    log = tmp_path / "audit.log"
    summary = run(tiny, open_source(spec, **options), log)
    names = [event.name for event in events(log)]
    assert CUT in names and names.count(FAILED) == summary.counts.failed == 1
    assert summary.images == 2 * summary.counts.processed > 10
    assert len({frame.frame_id for frame in frames(log)}) == summary.images
