"""The live folder: whole files only, read back as written, and nobody else's folder written to."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edge_runtime.device import DeviceReadings
from edge_runtime.errors import InputError
from edge_runtime.live import (
    MAX_PICTURE_BYTES,
    MAX_STATUS_BYTES,
    STATUS,
    Counts,
    DriftState,
    Histogram,
    LiveWriter,
    Series,
    Shown,
    age,
    default_live_folder,
    read_live,
    read_picture,
)
from tests.edge_runtime.live_status import running


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    status = running(
        shown=Shown(frame_id="a", label=None, prediction=None, probability=None, box=(1, 2, 3, 4)),
        histograms={"classify": Histogram(edges=(1.0, 2.0), counts=(3, 4, 5), total=20.0)},
        gini={"vg": Series(wall=(1.0, 2.0), values=(0.5, None), baseline=0.6)},
        drift={"gini vg": DriftState(drifted=True, p_value=None, threshold=0.01, window=50)},
        device=DeviceReadings(power_watts=7.5, rails_watts={"VDD_IN": 7.5}),
        log={"pending": 3.0, "error": None, "path": "audit.log"},
    )
    writer = LiveWriter(tmp_path / "live")
    assert writer.write(status, {"frame.jpg": b"picture"}) is None
    assert read_live(writer.folder) == status
    assert read_picture(writer.folder, "frame.jpg") == b"picture"
    assert read_picture(writer.folder, "overlay.jpg") is None
    assert sorted(path.name for path in writer.folder.iterdir()) == ["frame.jpg", STATUS]
    assert writer.folder.stat().st_mode & 0o777 == 0o700


def test_no_folder_is_no_status(tmp_path: Path) -> None:
    assert read_live(tmp_path / "none") is None
    assert read_picture(tmp_path / "none", "frame.jpg") is None


def test_a_new_loop_starts_with_nothing_to_show(tmp_path: Path) -> None:
    LiveWriter(tmp_path).write(running(), {"frame.jpg": b"old"})
    LiveWriter(tmp_path)
    assert (read_live(tmp_path), read_picture(tmp_path, "frame.jpg")) == (None, None)


def test_age_is_monotonic() -> None:
    assert 29 < age(running(boot_monotonic=time.monotonic() - 30, written_wall=0.0)) < 60


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    writer, stop, errors = LiveWriter(tmp_path), threading.Event(), []
    pictures = [bytes([value]) * 200_000 for value in (1, 2)]

    def rewrite() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            counts = Counts(produced=number, processed=number)
            errors.append(writer.write(running(counts=counts), {"frame.jpg": pictures[number % 2]}))

    writing = threading.Thread(target=rewrite)
    writing.start()
    try:
        for _ in range(300):
            status, picture = read_live(tmp_path), read_picture(tmp_path, "frame.jpg")
            assert status is None or status.counts.produced == status.counts.processed
            assert picture is None or picture in pictures
    finally:
        stop.set()
        writing.join()
    assert set(errors) == {None}


def test_a_failing_disk_is_told_and_not_raised(tmp_path: Path) -> None:
    writer = LiveWriter(tmp_path / "live")
    (tmp_path / "live").rmdir()
    assert writer.write(running()) == "No such file or directory"


def test_a_folder_that_all_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="all may write to it; name another"):
        LiveWriter(tmp_path)


def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(InputError, match="belongs to others"):
        LiveWriter(tmp_path)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "live").write_text("")
    with pytest.raises(InputError, match="File exists; name another folder"):
        LiveWriter(tmp_path / "live")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no JSON", "written by another version"),
        (b"{}", "missing required field"),
        (msgspec.json.encode({**msgspec.to_builtins(running()), "added": 1}), "unknown field `added`"),
        (b" " * (MAX_STATUS_BYTES + 1), "was not written by roadworthy"),
    ],
    ids=["text", "empty", "newer", "huge"],
)
def test_what_is_no_status(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / STATUS).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_live(tmp_path)


def test_a_huge_picture_is_none(tmp_path: Path) -> None:
    with (tmp_path / "frame.jpg").open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    assert read_picture(tmp_path, "frame.jpg") is None


@pytest.mark.parametrize("run_time", ["/run/user/7", None])
def test_the_default_folder_is_this_users(run_time: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if run_time:
        monkeypatch.setenv("XDG_RUNTIME_DIR", run_time)
        assert default_live_folder() == Path("/run/user/7/roadworthy")
    else:
        assert str(os.getuid()) in default_live_folder().name
