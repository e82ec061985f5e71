"""What the loop says on stderr, and that nobody has to listen."""

from __future__ import annotations

import io
import logging
import os
import time
from pathlib import Path

import pytest

from edge_runtime.loop.keeper import LogKeeper
from toolkit.cli.told import MOST_WAITING, events_on_stderr

LOGGER = logging.getLogger("edge_runtime.loop.keeper")


def test_events_are_lines_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    keeper = LogKeeper(None, patient=False, stopping=lambda: False)
    with events_on_stderr():
        keeper.event("lost", "camera:0 is gone\nand more")
        for _ in range(20):
            keeper.event("again", "")
    keeper.event("late", "nobody listens")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == r"lost: camera:0 is gone\nand more"
    assert lines[1:] == ["again: "] * 16
    assert not logging.getLogger("edge_runtime.loop").handlers


def test_a_pipe_that_nobody_reads_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    monkeypatch.setattr("sys.stderr", os.fdopen(writing, "w"))
    start = time.monotonic()
    with events_on_stderr():
        for number in range(3 * MOST_WAITING):
            LOGGER.info("event %d", number)
    assert time.monotonic() - start < 5
    os.close(reading)  # the thread that still writes gets an error, and ends


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("sys.stderr", os.fdopen(writing, "w"))
    before = set(Path("/proc/self/fd").iterdir())
    with events_on_stderr():
        LOGGER.info("hello")
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "no file"])
def test_without_a_stderr_the_loop_runs(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    with events_on_stderr():
        LOGGER.info("hello")
    assert not logging.getLogger("edge_runtime.loop").handlers
