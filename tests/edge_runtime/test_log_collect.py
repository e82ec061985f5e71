"""A log is copied while it is written, whole as of a moment, and nothing else passes for a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import LogError
from edge_runtime.log import Anchor, verify
from edge_runtime.log.anchor_file import read_anchor
from edge_runtime.log.collect import copy_log
from tests.edge_runtime.log_tools import fill, frame, open_log


def test_a_live_log_is_copied_with_its_wal(tmp_path: Path) -> None:
    with open_log(tmp_path / "audit.db") as log:
        for number in range(30):
            log.append(frame(number))
        log.commit()
        head = copy_log(tmp_path / "audit.db", tmp_path / "copy.db")
        assert head == log.head
        log.append(frame(30))
        log.commit()
        assert log.head != head
    copied = verify(tmp_path / "copy.db", anchor=head)
    assert copied.ok
    assert copied.records == 30
    assert read_anchor(tmp_path / "copy.db") == head
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db", "copy.db-anchor"]
    original = verify(tmp_path / "audit.db")
    assert (original.ok, original.records) == (True, 31)


def test_a_closed_log_is_not_touched(tmp_path: Path) -> None:
    log = fill(tmp_path / "audit.db", 10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert isinstance(copy_log(log, tmp_path / "out.db"), Anchor)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_what_is_not_copied(tmp_path: Path) -> None:
    log = fill(tmp_path / "audit.db", 10)
    with pytest.raises(LogError, match="does not exist"):
        copy_log(tmp_path / "none.db", tmp_path / "out.db")
    (tmp_path / "out.db").write_text("x")
    with pytest.raises(LogError, match="already exists"):
        copy_log(log, tmp_path / "out.db")
    (tmp_path / "out.db").unlink()
    data = bytearray(log.read_bytes())
    data[data.rindex(b"frame-7")] ^= 1
    log.write_bytes(data)
    with pytest.raises(LogError, match="for they are evidence"):
        copy_log(log, tmp_path / "out.db")
    assert not (tmp_path / "out.db").exists()
