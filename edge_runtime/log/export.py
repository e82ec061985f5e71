"""Export a log for other tools: Parquet and CSV tables, MCAP for Foxglove.

One row (or message) per record, read from one snapshot in two passes: the first learns the columns, the second writes.
The libraries are imported when a format needs them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apsw

from edge_runtime import extras
from edge_runtime.errors import InputError, unknown
from edge_runtime.folders import new_file
from edge_runtime.log.reader import LoggedRecord, records
from edge_runtime.log.snapshot import open_snapshot
from edge_runtime.log.table import flatten

# A Parquet file's row group: large ones are read several times as fast; pictures end one early, for memory's sake.
ROWS_PER_GROUP = 1 << 16
BYTES_PER_GROUP = 64 << 20
ROWS_AT_ONCE = 4096  # as Python objects, which take far more memory than their columns
LOG_ID = "roadworthy.log_id"  # in a Parquet file's metadata


@dataclass(frozen=True)
class Source:
    """A snapshot that can be read again and again."""

    db: apsw.Connection
    path: Path

    def entries(self) -> Iterator[LoggedRecord]:
        """Yield all records in order."""
        return records(self.db, self.path)


Exporter = Callable[[Source, Path], int]


def export_log(path: str | Path, out: str | Path, *, to: str | None = None, force: bool = False) -> int:
    """Write the log to ``out`` in a format of ``EXPORTERS``, by default its name's ending; return the record count.

    The file appears whole or not at all. Raises InputError for an unknown format, an existing file without ``force``
    or a missing library, LogError for a log that cannot be read.
    """
    path, out = Path(path), Path(out)
    name = to or out.suffix.removeprefix(".")
    if name not in EXPORTERS:
        raise unknown("export format", name, EXPORTERS)
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder; create it first")
    with new_file(out, force=force) as temporary, open_snapshot(path) as db:
        return EXPORTERS[name](Source(db, path), temporary)


def library(module: str) -> Any:
    """Import a library that the device install does not bring. Raises InputError with the way to get it."""
    return extras.library(module, "log", "this export")


def column_types(source: Source) -> dict[str, type]:
    """Return every column of the log with the type that holds all its values (str where they differ)."""
    found: dict[str, set[type]] = {}
    for entry in source.entries():
        for name, value in flatten(entry).items():
            found.setdefault(name, set()).update({type(value)} if value is not None else ())
    return {name: _common(types) for name, types in found.items()}


def _common(types: set[type]) -> type:
    if types == {int, float}:
        return float
    return types.pop() if len(types) == 1 else str


def write_csv(source: Source, out: Path) -> int:
    """Write a table without the pictures; missing values are empty."""
    names = [name for name, kind in column_types(source).items() if kind is not bytes]
    written = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for entry in source.entries():
            writer.writerow(flatten(entry))
            written += 1
    return written


def write_parquet(source: Source, out: Path, *, pictures: bool = True) -> int:
    """Write a table with the pictures, if wanted, as binary columns and ``time`` as timestamp.

    Every page carries a checksum, and the file's metadata the log's id (hex): the same log exported twice shows.
    """
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    arrow_types = {
        int: arrow.int64(),
        float: arrow.float64(),
        bool: arrow.bool_(),
        str: arrow.string(),
        bytes: arrow.binary(),
    }
    types = {name: kind for name, kind in column_types(source).items() if pictures or kind is not bytes}
    fields = [arrow.field(name, arrow_types[kind]) for name, kind in types.items() if name != "time"]
    log_id = source.db.execute("SELECT id FROM log").get.hex()
    schema = arrow.schema([arrow.field("time", arrow.timestamp("ns", tz="UTC")), *fields], {LOG_ID: log_id})
    written = 0
    with parquet.ParquetWriter(out, schema, **parquet_options(schema)) as writer:
        entries = source.entries()
        group: list[Any] = []
        while rows := [_typed(flatten(entry), types) for entry in islice(entries, ROWS_AT_ONCE)]:
            group.append(arrow.Table.from_pylist(rows, schema=schema))
            written += len(rows)
            if sum(map(len, group)) >= ROWS_PER_GROUP or sum(part.nbytes for part in group) >= BYTES_PER_GROUP:
                writer.write_table(arrow.concat_tables(group), row_group_size=ROWS_PER_GROUP)
                group = []
        if group:
            writer.write_table(arrow.concat_tables(group), row_group_size=ROWS_PER_GROUP)
    return written


def parquet_options(schema: Any) -> dict[str, Any]:
    """Return how Parquet files of a schema are written: dictionaries for texts only, for measures seldom repeat."""
    texts = [field.name for field in schema if str(field.type) == "string"]
    return {"compression": "zstd", "write_page_checksum": True, "use_dictionary": texts}


def _typed(columns: dict[str, Any], types: dict[str, type]) -> dict[str, Any]:
    """Bring values of columns with mixed types to the column's type; the time in full precision."""
    typed = {name: None if value is None else types[name](value) for name, value in columns.items() if name in types}
    return {**typed, "time": columns["wall_ns"]}


def write_mcap(source: Source, out: Path) -> int:
    """Write image, overlay, metric and log topics for Foxglove; see ``mcap_export``."""
    from edge_runtime.log.mcap_export import write

    return write(source, out)


EXPORTERS: dict[str, Exporter] = {"parquet": write_parquet, "csv": write_csv, "mcap": write_mcap}
