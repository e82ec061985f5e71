"""The service manager hears of the start, of completed frames, and of the end; and of nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.loop import VehicleLoop
from edge_runtime.service.notify import FEEDS_PER_TIMEOUT, Notifier, watchdog_seconds
from edge_runtime.sources.frame import Report
from tests.edge_runtime.loop.loop_tools import QUICK, ArraySource


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    """Return the datagrams that have arrived."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def environment(manager: socket.socket, watchdog: int = 0) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(watchdog)}


def test_ready_frames_and_end(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    notifier.ready("signs on camera:0")
    notifier.frame_done()
    notifier.frame_done()
    notifier.stopping("SIGTERM")
    assert heard(manager) == [
        "READY=1\nSTATUS=signs on camera:0",
        "WATCHDOG=1",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=SIGTERM",
    ]


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"roadworthy-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).frame_done()
        assert listening.recv(100) == b"WATCHDOG=1"


def test_frames_in_quick_succession_are_one(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager, watchdog=3600 * 1_000_000 * FEEDS_PER_TIMEOUT))
    for _ in range(100):
        notifier.frame_done()
    assert heard(manager) == ["WATCHDOG=1"]


def test_nobody_listens(tmp_path: Path) -> None:
    for variables in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nowhere")}, {"NOTIFY_SOCKET": "relative"}):
        notifier = Notifier(variables)
        notifier.ready("x")
        notifier.frame_done()
        notifier.stopping("x")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_the_watchdogs_time(variables: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(variables) == seconds


def test_the_loop_feeds_by_completed_frames_alone(
    tiny: Bundle, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every frame the source notes what was heard so far: silence of the source is silence of the watchdog."""
    for name, value in environment(manager).items():
        monkeypatch.setenv(name, value)
    before: list[int] = []
    said: list[str] = []

    def note(number: int, report: Report) -> None:
        said.extend(heard(manager))
        before.append(said.count("WATCHDOG=1"))

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    summary = VehicleLoop(tiny, ArraySource(images, each=note), QUICK).run()
    said.extend(heard(manager))
    assert summary.counts.processed == 6
    assert said[0].startswith("READY=1\nSTATUS=tiny on arrays")
    assert said[-1].startswith("STOPPING=1")
    assert said.count("WATCHDOG=1") == 6
    # The reader may be ahead of the classification, never behind: there is no feed without its frame.
    assert all(fed <= number for number, fed in enumerate(before))
