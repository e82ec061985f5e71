"""docs/sources.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.preprocess import MAX_PIXELS
from edge_runtime.sources import frame
from edge_runtime.sources.boxes import READERS
from edge_runtime.sources.camera import TIMEOUTS_SINCE, Patience
from edge_runtime.sources.mcap_boxes import DETECTIONS
from edge_runtime.sources.mcap_images import DECODERS, PIXEL_FORMATS
from edge_runtime.sources.opencv import READ_TIMEOUT_SECONDS
from edge_runtime.sources.opening import KINDS, kind_of
from tests.edge_runtime.test_sources_video import video

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")


def test_every_kind_of_source_has_a_command() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| `roadworthy audit BUNDLE --source ([^`]+)` \|", DOCUMENT, re.MULTILINE))
    assert set(rows) == {kind.usage for kind in KINDS.values()}
    for usage, command in rows.items():
        spec = re.match(r'"([^"]+)"|\S+', command)
        assert spec is not None
        if usage != "a folder of images":  # known by being there
            assert kind_of(spec.group(1) or spec.group()).usage == usage


def test_the_example_runs(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    video(tmp_path / "drive.mp4", "mp4v")
    (tmp_path / "boxes.csv").write_text("frame,x0,y0,x1,y1\n2,1,2,30,40\n2,5,6,70,60\n")
    monkeypatch.chdir(tmp_path)
    names = {"bundle": tiny}
    exec(code, names)
    size = tiny.manifest.input
    assert names["batch"].shape == (2, 3, size.height, size.width)  # type: ignore[attr-defined]


def test_every_event_is_explained() -> None:
    events = {value for name, value in vars(frame).items() if name.isupper() and isinstance(value, str)}
    assert events == set(re.findall(r"^\| `([\w-]+)` \|", DOCUMENT, re.MULTILINE))


def test_every_format_and_limit_is_named() -> None:
    names = [*READERS, *(kind.schema for kind in DECODERS), *PIXEL_FORMATS, DETECTIONS.schema]
    assert [name for name in names if name not in DOCUMENT] == []
    patience = Patience()
    assert f"{MAX_PIXELS // 10**6} megapixels" in DOCUMENT
    assert (
        f"after {patience.first_wait} s, then twice as long each time, at most {patience.longest_wait:.0f} s"
        in DOCUMENT
    )
    assert f"falls silent counts as lost after {READ_TIMEOUT_SECONDS} s" in DOCUMENT
    assert f"OpenCV {'.'.join(map(str, TIMEOUTS_SINCE))} on" in DOCUMENT
    assert f"the very same picture for {patience.frozen_after:.0f} s" in DOCUMENT
