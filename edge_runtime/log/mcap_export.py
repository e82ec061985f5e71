"""Export to MCAP with Foxglove's published schemas: what the camera saw, what the decision rested on, the measures.

| topic | schema |
| --- | --- |
| /image | foxglove.CompressedImage, the logged thumbnail |
| /overlay | foxglove.CompressedImage, the saliency over it |
| /metrics | JSON: every number of the frame's record, to plot |
| /log | foxglove.Log: events, gaps, flags, clock steps |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.errors import LogError
from edge_runtime.log.reader import LoggedRecord
from edge_runtime.log.record import MAX_BODY_BYTES, MAX_IMAGE_BYTES, EventRecord, Evicted, FrameRecord, Lost
from edge_runtime.log.thumbnails import encode_overlay

if TYPE_CHECKING:
    from edge_runtime.log.export import Source

# A chunk ends with the message that fills it, so this much keeps every chunk within 64 KiB: larger ones lose more when
# a copy breaks off.
CHUNK_BYTES = (64 << 10) - max(MAX_BODY_BYTES, MAX_IMAGE_BYTES) - 4096

JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "string"}


def write(source: Source, out: Path) -> int:
    """Write the log's records as messages; return how many records."""
    from edge_runtime.log.export import library

    timeline, schema = _first_pass(source)
    written = 0
    with out.open("wb") as file:
        topics = _Topics(library, file, schema)
        for entry in source.entries():
            topics.write(entry, timeline.time_ns(entry))
            written += 1
        topics.finish()
    return written


class Timeline:
    """When records happened, free of wall-clock steps.

    Within a boot, monotonic time plus the wall clock's last known offset: a vehicle without a battery boots in 1970 and
    learns the time minutes later, and what happened before then belongs before it on the same axis.
    """

    def __init__(self) -> None:
        self._offsets: dict[str | None, int] = {}

    def learn(self, entry: LoggedRecord) -> None:
        """Take over a record's clocks; the last record of a boot counts."""
        self._offsets[entry.stamp.boot_id] = entry.stamp.wall_ns - entry.stamp.monotonic_ns

    def time_ns(self, entry: LoggedRecord) -> int:
        """Return the record's time on the axis, in nanoseconds since 1970."""
        return max(0, entry.stamp.monotonic_ns + self._offsets[entry.stamp.boot_id])


def _first_pass(source: Source) -> tuple[Timeline, dict[str, Any]]:
    timeline, schema = Timeline(), {"title": "roadworthy.Metrics", "type": "object", "properties": {}}
    for entry in source.entries():
        timeline.learn(entry)
        if isinstance(entry.record, FrameRecord):
            merge_schema(schema, metrics(entry))
    return timeline, schema


def metrics(entry: LoggedRecord) -> dict[str, Any]:
    """Return the frame's record without its pictures, with its sequence."""
    values: dict[str, Any] = msgspec.to_builtins(entry.record, builtin_types=(bytes,))
    return {"sequence": entry.sequence, **{name: value for name, value in values.items() if name not in PICTURES}}


PICTURES = ("image", "saliency")


def merge_schema(schema: dict[str, Any], value: Any) -> None:
    """Widen a JSON schema so that it describes ``value`` as well; written out, for Foxglove resolves no references."""
    if isinstance(value, dict):
        schema["type"] = "object"
        for name, item in value.items():
            merge_schema(schema.setdefault("properties", {}).setdefault(name, {}), item)
    elif isinstance(value, (list, tuple)):
        schema["type"] = "array"
        for item in value:
            merge_schema(schema.setdefault("items", {}), item)
    elif value is not None:
        schema["type"] = JSON_TYPES[type(value)]


def remarks(entry: LoggedRecord) -> Iterator[tuple[str, str]]:
    """Yield what the log topic says of a record: a Foxglove level and a line."""
    record = entry.record
    if entry.stamp.clock_step_seconds is not None:
        yield "WARNING", f"the wall clock was set by {entry.stamp.clock_step_seconds:+.3f} s"
    if isinstance(record, FrameRecord) and record.flags:
        yield "WARNING", f"{record.frame_id}: " + "; ".join(record.flags)
    elif isinstance(record, EventRecord):
        details = json.dumps(record.data) if record.data else ""
        yield "INFO", " ".join(filter(None, (f"{record.name}:", record.message, details)))
    elif isinstance(record, Evicted):
        yield "INFO", f"records {record.first} to {record.last} were removed for the byte cap"
    elif isinstance(record, Lost):
        yield "ERROR", f"{record.count} records were lost: {record.reason}"


def _overlay(sequence: int, image: bytes | None, saliency: bytes) -> bytes:
    try:
        return encode_overlay(image, saliency)
    except LogError as error:
        raise LogError(f"record {sequence}: {error}") from error


class _Topics:
    """The MCAP file's channels."""

    def __init__(self, library: Any, file: Any, schema: dict[str, Any]) -> None:
        self._image = library("foxglove_schemas_protobuf.CompressedImage_pb2").CompressedImage
        self._log = library("foxglove_schemas_protobuf.Log_pb2").Log
        register = library("mcap_protobuf.schema").register_schema
        self._writer = library("mcap.writer").Writer(file, chunk_size=CHUNK_BYTES)
        self._writer.start(profile="", library="roadworthy")
        image, log = register(self._writer, self._image), register(self._writer, self._log)
        described = json.dumps(schema).encode()
        numbers = self._writer.register_schema(name=schema["title"], encoding="jsonschema", data=described)
        self._channels = {
            topic: self._writer.register_channel(topic=topic, message_encoding=encoding, schema_id=schema_id)
            for topic, encoding, schema_id in (
                ("/image", "protobuf", image),
                ("/overlay", "protobuf", image),
                ("/metrics", "json", numbers),
                ("/log", "protobuf", log),
            )
        }

    def write(self, entry: LoggedRecord, time_ns: int) -> None:
        """Write one record's messages at its time on the axis; the publish time is the wall clock as it stood."""
        record = entry.record
        if isinstance(record, FrameRecord):
            self._add("/metrics", entry, time_ns, msgspec.json.encode(metrics(entry)))
            if record.image is not None:
                self._add_picture("/image", entry, time_ns, record.image)
            if record.saliency is not None:
                self._add_picture("/overlay", entry, time_ns, _overlay(entry.sequence, record.image, record.saliency))
        for level, line in remarks(entry):
            message = self._log(level=level, message=line, name="roadworthy")
            message.timestamp.FromNanoseconds(time_ns)
            self._add("/log", entry, time_ns, message.SerializeToString())

    def _add_picture(self, topic: str, entry: LoggedRecord, time_ns: int, data: bytes) -> None:
        format_ = "png" if data.startswith(b"\x89PNG") else "jpeg"
        message = self._image(frame_id="camera", data=data, format=format_)
        message.timestamp.FromNanoseconds(time_ns)
        self._add(topic, entry, time_ns, message.SerializeToString())

    def _add(self, topic: str, entry: LoggedRecord, time_ns: int, data: bytes) -> None:
        self._writer.add_message(
            channel_id=self._channels[topic],
            log_time=time_ns,
            publish_time=max(0, entry.stamp.wall_ns),
            sequence=entry.sequence & 0xFFFFFFFF,
            data=data,
        )

    def finish(self) -> None:
        """Write the index."""
        self._writer.finish()
