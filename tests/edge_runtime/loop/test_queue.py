"""The queue: newest frame first or every frame, and books that balance at every moment."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.loop.queue import FrameQueue, start_reader
from edge_runtime.sources.frame import Report
from tests.edge_runtime.loop.loop_tools import ArraySource

PICTURE = np.zeros((4, 4, 3), np.uint8)


def ignore(name: str, message: str) -> None:
    """Nobody asks."""


def balanced(queue: FrameQueue) -> bool:
    counts = queue.counts
    return counts.produced == counts.processed + counts.dropped + counts.failed + counts.waiting


def wait_for_end(queue: FrameQueue) -> None:
    deadline = time.monotonic() + 20
    while not queue._ended and time.monotonic() < deadline:
        time.sleep(0.005)
    assert queue._ended


@pytest.mark.parametrize("depth", [1, 2])
def test_live_frames_that_nobody_takes_are_dropped_oldest_first(depth: int) -> None:
    queue = FrameQueue(ArraySource([PICTURE] * 50, live=True), depth, ignore)
    start_reader(queue)
    wait_for_end(queue)
    assert (queue.counts.produced, queue.counts.dropped, queue.counts.waiting) == (50, 50 - depth, depth)
    taken = [queue.take(1) for _ in range(depth)]
    assert [frame.frame_id for frame in taken if frame] == [f"frame-{50 - depth + n:05}" for n in range(depth)]
    assert queue.ended
    assert queue.take(1) is None


@pytest.mark.parametrize("depth", [1, 2])
def test_a_replay_gives_every_frame_in_order(depth: int) -> None:
    queue = FrameQueue(ArraySource([PICTURE] * 200), depth, ignore)
    start_reader(queue)
    names = []
    while not queue.ended:
        frame = queue.take(0.05)
        if frame is not None:
            names.append(frame.frame_id)
            queue.settle(processed=True)
        assert queue.counts.waiting <= depth + 1
        assert balanced(queue)
    assert names == [f"frame-{number:05}" for number in range(200)]
    assert queue.counts.processed == 200


def test_the_books_balance_while_both_sides_work() -> None:
    queue = FrameQueue(ArraySource([PICTURE] * 3000, live=True), 1, ignore)
    wrong: list[object] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            counts = queue.counts
            if counts.produced != counts.processed + counts.dropped + counts.failed + counts.waiting:
                wrong.append(counts)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start_reader(queue)
    number = 0
    while not queue.ended:
        if queue.take(0.01) is not None:
            number += 1
            queue.settle(processed=number % 3 > 0)
    done.set()
    watcher.join()
    assert not wrong
    assert queue.counts.waiting == 0
    assert queue.counts.failed == number // 3


def test_what_the_source_could_not_read_is_produced_and_failed() -> None:
    source = ArraySource([PICTURE] * 3)
    source.failed = 4
    queue = FrameQueue(source, 1, ignore)
    assert (queue.counts.produced, queue.counts.failed) == (4, 4)


def test_stopping_drops_what_waits_and_frees_a_blocked_reader() -> None:
    queue = FrameQueue(ArraySource([PICTURE] * 100), 2, ignore)
    reader = start_reader(queue)
    while queue.counts.produced < 3:  # two wait, the third waits for room
        time.sleep(0.005)
    queue.stop()
    reader.join(10)
    assert not reader.is_alive()
    assert queue.take(0) is None
    assert (queue.counts.dropped, queue.counts.waiting) == (3, 0)
    assert balanced(queue)


def test_a_source_that_raises_ends_the_queue_with_its_error() -> None:
    def fail(number: int, report: Report) -> None:
        if number == 5:
            raise InputError("no such camera")

    queue = FrameQueue(ArraySource([PICTURE] * 10, each=fail), 2, ignore)
    start_reader(queue)
    taken = 0
    while not queue.ended:
        taken += queue.take(0.05) is not None
    assert taken == 5
    assert isinstance(queue.error, InputError)


@pytest.mark.parametrize("live", [False, True])
def test_reports_come_in_the_frames_order_in_a_replay_and_at_once_when_live(live: bool) -> None:
    story: list[str] = []

    def tell(number: int, report: Report) -> None:
        if number in (2, 4):
            report("frame-failed", f"before {number}")

    queue = FrameQueue(ArraySource([PICTURE] * 5, live=live, each=tell), 1, lambda name, message: story.append(message))
    start_reader(queue)
    if live:
        wait_for_end(queue)
        assert story == ["before 2", "before 4"]
        return
    while not queue.ended:
        frame = queue.take(0.05)
        if frame is not None:
            story.append(frame.frame_id[-1])
    assert story == ["0", "1", "before 2", "2", "3", "before 4", "4"]


def test_the_interval_of_arrivals_is_learned() -> None:
    queue = FrameQueue(ArraySource([PICTURE] * 20, live=True, pause=0.01), 1, ignore)
    start_reader(queue)
    wait_for_end(queue)
    assert queue.interval is not None and 0.009 < queue.interval < 1
    assert queue.last_arrival is not None and queue.last_arrival <= time.monotonic()
