"""Reading an MCAP file from front to back: whole, cut off, or damaged inside.

The stream reader needs no index, so that a recording which ended with the power is read up to the cut. A damaged chunk
is passed over; a damaged frame of the records ends the log, for nothing tells where the next one begins.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edge_runtime import extras
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from mcap.records import Chunk, McapRecord, Schema

MAX_RECORD_BYTES = 256 << 20  # of a record, and of a chunk when it is decompressed; recorders write about 1 MiB


def library(module: str) -> Any:
    """Import a library that robot logs need; raises InputError with the way to get it."""
    return extras.library(module, "vehicle", "a robot log")


@dataclass(frozen=True)
class Topic:
    """What a topic holds: the schema's name, and how messages are encoded ("cdr", "protobuf")."""

    schema: str
    encoding: str


@dataclass(frozen=True)
class Entry:
    """One message: its type, the schema as the file has it, the time it was logged (ns since 1970), its bytes."""

    kind: Topic
    schema: Schema | None
    log_time: int
    data: bytes


Damage = Callable[[str, int], None]  # what happened, how many messages of the wanted topic were lost with it


class McapLog:
    """An MCAP file. Raises InputError for one that is missing or no MCAP."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mcap: dict[str, Any] = {
            name: library(f"mcap.{name}") for name in ("data_stream", "reader", "records", "stream_reader")
        }
        try:
            with path.open("rb") as file:
                self._mcap["stream_reader"].read_magic(self._mcap["data_stream"].ReadDataStream(file))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; check the path") from error
        except Exception as error:  # too short, or other bytes
            raise InputError(f"{path} is no MCAP file: it does not begin like one; check what it is") from error
        self._schemas, self._channels = self._summary()

    def topics(self) -> dict[str, Topic]:
        """Return all topics, sorted; read from the index, or where there is none from the whole file."""
        if not self._channels:
            collections.deque(self._contents(lambda what: None), maxlen=0)
        found = {channel.topic: self._kind(channel) for channel in self._channels.values()}
        return dict(sorted(found.items()))

    def messages(self, topic: str, damage: Damage) -> Iterator[Entry]:
        """Yield a topic's messages in the file's order; what cannot be read is told to ``damage``."""
        lost, broken = 0, ""
        records = self._mcap["records"]

        def flush(further: str = "") -> None:
            nonlocal broken, lost
            if broken:
                damage(broken, lost)
            broken, lost = further, 0

        for record in self._contents(lambda what: flush(what)):
            channel = self._channels.get(record.channel_id)
            mine = channel if channel is not None and channel.topic == topic else None
            if isinstance(record, records.MessageIndex):
                # A chunk is followed by an index of its messages, which tells how many a damaged one held.
                lost += len(record.records) if mine and broken else 0
                continue
            flush()
            if mine:
                yield Entry(self._kind(mine), self._schemas.get(mine.schema_id), record.log_time, record.data)
        flush()

    def _kind(self, channel: Any) -> Topic:
        schema = self._schemas.get(channel.schema_id)
        return Topic("" if schema is None else schema.name, channel.message_encoding)

    def _summary(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """Return schemas and channels by id from the file's index, empty where it has none that can be read."""
        with self.path.open("rb") as file:
            reader = self._mcap["reader"].SeekingReader(_Bounded(file), record_size_limit=MAX_RECORD_BYTES)
            try:
                summary = reader.get_summary()
            except Exception:  # a cut or damaged file; the records themselves are read later, and judged
                return {}, {}
        return (dict(summary.schemas), dict(summary.channels)) if summary else ({}, {})

    def _contents(self, damaged: Callable[[str], None]) -> Iterator[Any]:
        """Yield messages and message indexes in the file's order, keeping schemas and channels on the way."""
        records = self._mcap["records"]
        for record in self._records(damaged):
            if isinstance(record, records.Schema):
                self._schemas[record.id] = record
            elif isinstance(record, records.Channel):
                self._channels[record.id] = record
            elif isinstance(record, (records.Message, records.MessageIndex)):
                yield record

    def _records(self, damaged: Callable[[str], None]) -> Iterator[McapRecord]:
        """Yield the records up to the end of the data, those of chunks in their place."""
        records = self._mcap["records"]
        with self.path.open("rb") as file:
            reader = self._mcap["stream_reader"].StreamReader(
                _Bounded(file), emit_chunks=True, record_size_limit=MAX_RECORD_BYTES
            )
            stream = iter(reader.records)
            while True:
                try:
                    record = next(stream)
                except Exception as error:  # the library meets damaged bytes with exceptions of every kind
                    damaged(f"{self.path} breaks off near byte {file.tell()} ({reason(error)})")
                    return
                if isinstance(record, records.DataEnd):
                    return
                if isinstance(record, records.Chunk):
                    yield from self._chunk(record, file.tell(), damaged)
                else:
                    yield record

    def _chunk(self, chunk: Chunk, end: int, damaged: Callable[[str], None]) -> list[McapRecord]:
        """Return a chunk's records, checked against its CRC; none where it is damaged."""
        try:
            plain = dataclasses.replace(chunk, data=decompress(chunk), compression="")
            found: list[McapRecord] = self._mcap["stream_reader"].breakup_chunk(plain, validate_crc=True)
        except Exception as error:  # decompressors and parsers, as above
            damaged(f"{self.path}: the chunk before byte {end} is damaged ({reason(error)})")
            return []
        return found


class _Bounded:
    """A file that never reads more at a time than a record may hold: damaged lengths would ask for terabytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, length: int = -1) -> bytes:
        return self._file.read(MAX_RECORD_BYTES if length < 0 else min(length, MAX_RECORD_BYTES))


def decompress(chunk: Chunk) -> bytes:
    """Return a chunk's content. Raises ValueError unless it has exactly the size that the chunk claims."""
    size = chunk.uncompressed_size
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"it claims {size} bytes; at most {MAX_RECORD_BYTES} are read")
    if chunk.compression not in DECOMPRESS:
        raise ValueError(f"unknown compression {chunk.compression!r}")
    data = DECOMPRESS[chunk.compression](chunk.data, size + 1)
    if len(data) != size:
        raise ValueError(f"its content does not have the {size} bytes that it claims")
    return data


def _plain(data: bytes, limit: int) -> bytes:
    return data[:limit]


def _zstd(data: bytes, limit: int) -> bytes:
    content: bytes = library("zstandard").ZstdDecompressor().stream_reader(data).read(limit)
    return content


def _lz4(data: bytes, limit: int) -> bytes:
    content: bytes = library("lz4.frame").LZ4FrameDecompressor().decompress(data, max_length=limit)
    return content


# Each returns at most ``limit`` bytes, whatever the compressed data say.
DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {"": _plain, "zstd": _zstd, "lz4": _lz4}


def reason(error: Exception) -> str:
    """Return an exception's message on one line, its type where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
