"""The queue between source and classification: newest frames first for a live source, every frame for a replay."""

from __future__ import annotations

import threading
import time
from collections import deque

from edge_runtime.live import Counts
from edge_runtime.sources.frame import Frame, Report, Source

DEPTHS = (1, 2)
# How long a waiting side sleeps before it looks whether the loop is stopping.
POLL_SECONDS = 0.1


class FrameQueue:
    """At most ``depth`` frames wait. A live source drops the oldest for a newer one, any other waits for room.

    What the source reports reaches ``report`` at once where it is live; in a replay before the frame that follows it,
    in the thread that takes frames, so that every replay tells the same story in the same order.

    The books always balance: produced = processed + dropped + failed + waiting, where a frame in hand still waits, and
    frames that the source itself could not read are produced and failed.
    """

    def __init__(self, source: Source, depth: int, report: Report) -> None:
        self._source = source
        self._depth = depth
        self._report = report
        self._frames: deque[tuple[Frame, list[tuple[str, str]]]] = deque()
        self._told: list[tuple[str, str]] = []  # reports since the last frame of a replay
        self._changed = threading.Condition()
        self._delivered = self._processed = self._dropped = self._failed = 0
        self._ended = False
        self._stopping = False
        self.error: BaseException | None = None
        self.last_arrival: float | None = None  # seconds of the monotonic clock
        self.interval: float | None = None  # smoothed seconds between arrivals

    @property
    def counts(self) -> Counts:
        """The books at this moment."""
        with self._changed:
            unread = self._source.failed
            settled = self._processed + self._dropped + self._failed
            return Counts(
                produced=self._delivered + unread,
                processed=self._processed,
                dropped=self._dropped,
                failed=self._failed + unread,
                waiting=self._delivered - settled,
            )

    @property
    def waiting(self) -> bool:
        """Whether a frame can be taken at once."""
        return bool(self._frames)

    @property
    def ended(self) -> bool:
        """Whether the source has ended and nothing waits."""
        with self._changed:
            return self._ended and not self._frames

    def feed(self) -> None:
        """Take every frame of the source until it ends or the queue is stopped; the body of the reader thread."""
        report = self._report if self._source.live else self._keep
        try:
            for frame in self._source.frames(report, lambda: self._stopping):
                if not self._put(frame):
                    break
        except Exception as error:  # handed to the loop, which raises it or reports it
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _keep(self, name: str, message: str) -> None:
        with self._changed:
            self._told.append((name, message))

    def _put(self, frame: Frame) -> bool:
        """Add one frame; say whether more are wanted."""
        with self._changed:
            self._delivered += 1
            self._note_arrival()
            while not self._source.live and len(self._frames) >= self._depth and not self._stopping:
                self._changed.wait(POLL_SECONDS)
            if self._stopping:
                self._dropped += 1
                return False
            while len(self._frames) >= self._depth:
                self._frames.popleft()
                self._dropped += 1
            self._frames.append((frame, self._told))
            self._told = []
            self._changed.notify_all()
            return True

    def _note_arrival(self) -> None:
        now = time.monotonic()
        if self.last_arrival is not None:
            gap = now - self.last_arrival
            # A smoothed interval forgets a pause within a second of 30 frames.
            self.interval = gap if self.interval is None else 0.8 * self.interval + 0.2 * min(gap, 1.0)
        self.last_arrival = now

    def take(self, seconds: float) -> Frame | None:
        """Return the oldest waiting frame, waiting up to ``seconds`` for one; None where none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended or self._stopping, seconds)
            frame: Frame | None = None
            told: list[tuple[str, str]] = []
            if self._frames and not self._stopping:
                frame, told = self._frames.popleft()
                self._changed.notify_all()
            elif self._ended and not self._frames:
                told, self._told = self._told, []
        for name, message in told:
            self._report(name, message)
        return frame

    def settle(self, processed: bool) -> None:
        """Enter the frame in hand as processed or as failed."""
        with self._changed:
            if processed:
                self._processed += 1
            else:
                self._failed += 1

    def stop(self) -> None:
        """Take no more frames; what waits counts as dropped. Wakes both sides."""
        with self._changed:
            self._stopping = True
            self._dropped += len(self._frames)
            self._frames.clear()
            self._changed.notify_all()


def start_reader(queue: FrameQueue) -> threading.Thread:
    """Start the thread that feeds the queue. It is a daemon: a source that never returns must not keep the process."""
    thread = threading.Thread(target=queue.feed, name="reader", daemon=True)
    thread.start()
    return thread
