"""The images of one topic of a robot log (MCAP)."""

from __future__ import annotations

import bisect
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.sources.frame import CUT, FAILED, Frame, Report
from edge_runtime.sources.mcap_images import DECODERS, Decoder
from edge_runtime.sources.mcap_log import Damage, Entry, McapLog, Topic, reason
from edge_runtime.text import encodable


class McapSource:
    """The images of a topic in the file's order; a frame's id is "TOPIC@LOG_TIME" in nanoseconds.

    Further messages of the same topic and time get "+1", "+2".
    """

    live = False

    def __init__(self, path: Path, topic: str | None = None) -> None:
        """Take ``topic``, or the log's only image topic. Raises InputError where there is no such one."""
        self.name = encodable(path)
        self.failed = 0
        self.log = McapLog(path)
        self.topic = choose_topic(self.log, topic)
        self._decoders: dict[Topic, Decoder] = {}

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the images; those that cannot be read are reported, counted and passed over."""
        given = 0
        first_failure = ""

        def damage(what: str, lost: int) -> None:
            self.failed += lost
            report(CUT, f"{what}; {lost} images of {self.topic} were lost with it" if lost else what)

        for frame_id, entry in image_messages(self.log, self.topic, damage):
            if stopping():
                return
            try:
                image = self.decoder(entry.kind).picture(entry.data)
            except Exception as error:  # a message may hold anything; each is judged alone
                self.failed += 1
                first_failure = first_failure or reason(error)
                report(FAILED, f"{frame_id}: {reason(error)}")
            else:
                given += 1
                yield Frame(frame_id, image, captured_ns=time.monotonic_ns())
        if not given and not stopping():
            found = first_failure or "it has no messages"
            raise InputError(f"{self.name} gives no image of {self.topic} ({found}); choose another topic or log")

    def decoder(self, kind: Topic) -> Decoder:
        """Return the decoder for a type of message; raises InputError for one that holds no image."""
        if kind not in DECODERS:
            raise InputError(f"{kind.schema} in {kind.encoding} is no image that is read")
        if kind not in self._decoders:
            self._decoders[kind] = DECODERS[kind]()
        return self._decoders[kind]

    def __enter__(self) -> McapSource:
        return self

    def __exit__(self, *exception: object) -> None:
        """The file is closed by ``frames``, however it ends."""


def image_messages(log: McapLog, topic: str, damage: Damage) -> Iterator[tuple[str, Entry]]:
    """Yield the frame id and the message of a topic's images."""
    known = array("Q")  # ascending: recorders write messages in nearly the order of their times, 8 bytes each
    repeated: dict[int, int] = {}
    for entry in log.messages(topic, damage):
        moment = entry.log_time
        place = bisect.bisect_left(known, moment)
        if place < len(known) and known[place] == moment:
            repeated[moment] = repeated.get(moment, 0) + 1
        else:
            known.insert(place, moment)
        yield f"{topic}@{moment}" + (f"+{repeated[moment]}" if moment in repeated else ""), entry


def choose_topic(log: McapLog, topic: str | None) -> str:
    """Return ``topic``, or the log's only image topic; raises InputError listing what there is instead."""
    topics = log.topics()
    images = [name for name, kind in topics.items() if kind in DECODERS]
    if topic is None and len(images) == 1:
        return images[0]
    if topic in images:
        return topic
    if not images:
        found = ", ".join(f"{name} ({kind.schema or 'no schema'} in {kind.encoding})" for name, kind in topics.items())
        raise InputError(f"{log.path} holds no image topic that is read; it holds {found or 'no topics'}")
    if topic is None:
        raise InputError(f"{log.path} holds {len(images)} image topics; choose one: {', '.join(images)}")
    raise InputError(f"{log.path} has no image topic {topic!r}; choose one: {', '.join(images)}")


def open_log(path: Path, topic: str | None = None) -> McapSource:
    """Open a robot log; its libraries are imported at once, so that a missing one is told before the start."""
    source = McapSource(path, topic)
    source.decoder(source.log.topics()[source.topic])
    return source
