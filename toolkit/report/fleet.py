"""What the logs of many vehicles say, asked of their Parquet files through DuckDB: nothing is loaded as a whole.

Percentiles are exact, by the definition of :mod:`edge_runtime.latency`: the smallest sample that at least that share
does not exceed. DuckDB keeps the values of the groups in question while it looks for them, so vehicles are asked for in
batches of bounded size, one stage after another.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.logs import LogFile

MEMORY_LIMIT = "1500MB"  # DuckDB's share; sorting and joining beyond it go to the temporary folder
ROWS_PER_BATCH = 40_000_000  # whose values of one column fit into that share
PERCENTILES = (0.5, 0.95, 0.99)
SPREAD = (0.05, 0.5, 0.95)
STAGE = "latency_ms."
EVENTS_KEPT = 1000
# Events that the report lists one by one; of the others it tells how many there were.
LISTED = ("drift", "drift-over", "degradation")
# What a table needs of a log. An export holds only the columns that its log had values for.
COLUMNS = {
    "vehicle": "VARCHAR",
    "device_model": "VARCHAR",
    "variant": "VARCHAR",
    "provider": "VARCHAR",
    "probability": "DOUBLE",
    "prediction": "BIGINT",
    "road": "VARCHAR",
    "count": "BIGINT",
    "last": "BIGINT",
    "name": "VARCHAR",
    "message": "VARCHAR",
}
ROAD_WINDOWS = '[{"measure": "VARCHAR", "method": "VARCHAR", "order": "VARCHAR", "auc": "DOUBLE", "images": "BIGINT"}]'

Key = tuple[str, str]  # vehicle, digest of the bundle


@dataclass(frozen=True)
class Percentiles:
    """Latency of ``count`` calls, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Spread:
    """``count`` values of a measure; ``undefined`` further ones had none."""

    count: int
    mean: float
    p5: float
    p50: float
    p95: float
    undefined: int = 0


@dataclass
class Vehicle:
    """One vehicle with one bundle; times are nanoseconds since 1970.

    ``failed`` counts frames without a prediction, ``lost`` records that could not be stored, ``evicted`` those that the
    byte cap removed. ``road`` is (LeRF - MoRF) / 2 of the areas, by "METHOD measure", with ``road_images`` images.
    """

    name: str
    digest: str
    bundle: str
    variant: str | None
    provider: str | None
    device: str | None
    first_ns: int
    last_ns: int
    files: int = 0
    records: int = 0
    frames: int = 0
    failed: int = 0
    lost: int = 0
    evicted: int = 0
    latency: dict[str, Percentiles] = field(default_factory=dict)
    gini: dict[str, Spread] = field(default_factory=dict)
    road: dict[str, Spread] = field(default_factory=dict)
    road_images: int = 0
    confidence: Spread | None = None
    events: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.name, self.digest


@dataclass(frozen=True)
class Event:
    """A drift alarm, its end, or a degradation step."""

    vehicle: str
    wall_ns: int
    name: str
    message: str


class FleetTable:
    """The records of all logs as one table that is read from disk when it is asked. A context manager.

    ``scratch`` is a folder for what does not fit into ``memory_limit``.
    """

    def __init__(self, files: Sequence[LogFile], scratch: Path, *, memory_limit: str = MEMORY_LIMIT) -> None:
        self._files = {str(file.table): file.label for file in files}
        self._schema = str(scratch / "schema.parquet")
        self._db = _duckdb().connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch / "spilled")})
        self._db.execute("SET autoinstall_known_extensions = false")  # nothing is fetched from anywhere
        self._db.execute("SET preserve_insertion_order = false")
        self.columns = self._write_schema()
        (unnamed,) = self._db.execute(f"SELECT count(*) - count(vehicle) FROM {self._scan(self._files)}").fetchone()
        self._join = self._labels() if unnamed else ""

    def __enter__(self) -> FleetTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def ask(self, query: str, files: Iterable[str] | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query on ``record``, read from ``files`` (None: all)."""
        scanned = self._scan(self._files if files is None else files)
        # An export takes a column without any value for text.
        texts = [name for name, kind in self.columns.items() if is_number(name) and kind == "VARCHAR"]
        replaced = [f"try_cast({quoted(name)} AS DOUBLE) AS {quoted(name)}" for name in texts]
        replaced += ["coalesce(vehicle, log_label) AS vehicle"] if self._join else []
        chosen = f"* REPLACE ({', '.join(replaced)})" if replaced else "*"
        record = f"SELECT {chosen} FROM {scanned} {self._join}"
        rows: list[tuple[Any, ...]] = self._db.execute(f"WITH record AS ({record}) {query}").fetchall()
        return rows

    def named(self, start: str, end: str = "") -> list[str]:
        """Return the middles of the columns' names that have this start and end, in order."""
        names = [name for name in self.columns if name.startswith(start) and name.endswith(end)]
        return sorted(name[len(start) : len(name) - len(end)] for name in names)

    def _write_schema(self) -> dict[str, str]:
        """Write a table without rows that has every column of any log, for scans of some; return the columns' types."""
        scanned = _scan(self._files)
        found = {name: kind for name, kind, *_ in self._db.execute(f"DESCRIBE SELECT * FROM {scanned}").fetchall()}
        missing = {name: kind for name, kind in COLUMNS.items() if name not in found}
        added = "".join(f", CAST(NULL AS {kind}) AS {quoted(name)}" for name, kind in missing.items())
        empty = f"SELECT * EXCLUDE (filename){added} FROM {scanned} LIMIT 0"
        self._db.execute(f"COPY ({empty}) TO {literal(self._schema)} (FORMAT parquet)")
        return found | missing

    def _labels(self) -> str:
        """Make the table of what to call the logs that name no vehicle; return how to join it."""
        self._db.execute("CREATE TABLE log_label (filename VARCHAR PRIMARY KEY, log_label VARCHAR NOT NULL)")
        self._db.executemany("INSERT INTO log_label VALUES (?, ?)", list(self._files.items()))
        return "JOIN log_label USING (filename)"

    def _scan(self, files: Iterable[str]) -> str:
        return _scan([self._schema, *files])


def _duckdb() -> Any:
    """Import DuckDB. Raises InputError with the way to get it."""
    try:
        return importlib.import_module("duckdb")
    except ImportError as error:
        raise InputError("reports of logs need duckdb: pip install 'roadworthy[desktop]'") from error


def _scan(files: Iterable[str]) -> str:
    return f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true, filename = true)"


def literal(text: str) -> str:
    """Return a text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def is_number(name: str) -> bool:
    """Whether a column holds a measure."""
    return name.startswith(STAGE) or name.endswith(".gini") or name == "probability"


# --- what the report asks ---------------------------------------------------------------------------------------------


def vehicles(table: FleetTable) -> list[Vehicle]:
    """Return every vehicle with all that its logs say, by name and bundle."""
    found, files = inventory(table)
    for batch in batches(found):
        read = sorted({file for key in batch for file in files[key]})
        for stage in table.named(STAGE):
            for key, percentiles in latency(table, stage, read).items():
                if key in batch:
                    batch[key].latency[stage] = percentiles
        add_measures(table, batch, read)
    add_gaps(table, found)
    add_events(table, found)
    return [found[key] for key in sorted(found)]


def inventory(table: FleetTable) -> tuple[dict[Key, Vehicle], dict[Key, list[str]]]:
    """Return the vehicles with their counts, and in which files the records of each are."""
    rows = table.ask(
        "SELECT vehicle, bundle_digest, filename, any_value(bundle), any_value(variant), any_value(provider), "
        "any_value(device_model), min(wall_ns), max(wall_ns), count(*), count(*) FILTER (kind = 'frame'), "
        "count(*) FILTER (kind = 'frame' AND prediction IS NULL) FROM record GROUP BY ALL ORDER BY ALL"
    )
    found: dict[Key, Vehicle] = {}
    files: dict[Key, list[str]] = defaultdict(list)
    for name, digest, file, bundle, variant, provider, device, first, last, records, frames, failed in rows:
        one = found.setdefault((name, digest), Vehicle(name, digest, bundle, variant, provider, device, first, last))
        one.first_ns, one.last_ns = min(one.first_ns, first), max(one.last_ns, last)
        one.files, one.records = one.files + 1, one.records + records
        one.frames, one.failed = one.frames + frames, one.failed + failed
        files[name, digest].append(file)
    return found, files


def batches(found: dict[Key, Vehicle]) -> Iterator[dict[Key, Vehicle]]:
    """Yield the vehicles in parts of at most ROWS_PER_BATCH records, at least one each."""
    part: dict[Key, Vehicle] = {}
    for key in sorted(found):
        if part and sum(one.records for one in part.values()) + found[key].records > ROWS_PER_BATCH:
            yield part
            part = {}
        part[key] = found[key]
    if part:
        yield part


def latency(table: FleetTable, stage: str, files: Iterable[str] | None = None) -> dict[Key, Percentiles]:
    """Return the percentiles of one stage, by vehicle and bundle."""
    value = quoted(STAGE + stage)
    rows = table.ask(
        f"SELECT vehicle, bundle_digest, count({value}), quantile_disc({value}, {list(PERCENTILES)}) FROM record "
        f"WHERE {value} IS NOT NULL GROUP BY ALL",
        files,
    )
    return {(name, digest): Percentiles(count, *values) for name, digest, count, values in rows}


def add_measures(table: FleetTable, batch: dict[Key, Vehicle], files: Sequence[str]) -> None:
    """Add Gini by explainer, confidence, and ROAD by explainer and measure."""
    methods = [method for method in METHOD_TITLES if method in table.named("explainers.", ".gini")]
    for method in methods:
        # An explainer's reduction is there whenever it ran, its Gini only where that is defined.
        ran = f"explainers.{method}.reduction"
        undefined = f"{quoted(ran)} IS NOT NULL" if ran in table.columns else "false"
        for key, spread in spreads(table, quoted(f"explainers.{method}.gini"), undefined, files).items():
            if key in batch:
                batch[key].gini[method] = spread
    for key, spread in spreads(table, "probability", "false", files).items():
        if key in batch:
            batch[key].confidence = spread
    for name, digest, method, measure, images, *values in road_windows(table, files):
        if (name, digest) in batch:
            batch[name, digest].road[f"{method} {measure}"] = Spread(*values)
            batch[name, digest].road_images = max(batch[name, digest].road_images, images or 0)


def spreads(table: FleetTable, value: str, undefined: str, files: Iterable[str]) -> dict[Key, Spread]:
    """Return the distribution of a measure by vehicle and bundle; ``undefined`` is the condition of having none."""
    rows = table.ask(
        f"SELECT vehicle, bundle_digest, count({value}), favg({value}), quantile_disc({value}, {list(SPREAD)}), "
        f"count(*) FILTER ({value} IS NULL) FROM record WHERE {value} IS NOT NULL OR {undefined} GROUP BY ALL "
        f"HAVING count({value}) > 0",
        files,
    )
    return {
        (name, digest): Spread(count, mean, p5, p50, p95, missing)
        for name, digest, count, mean, (p5, p50, p95), missing in rows
    }


def road_windows(table: FleetTable, files: Iterable[str]) -> list[tuple[Any, ...]]:
    """Return (vehicle, digest, method, measure, images, count, mean, p5, p50, p95) of (LeRF - MoRF) / 2 over windows.

    A record carries one window in both orders; agreement and accuracy stay apart.
    """
    rows = table.ask(
        f"""
        SELECT vehicle, bundle_digest, method, measure, sum(images), count(area), favg(area),
               quantile_disc(area, {list(SPREAD)})
        FROM (
            SELECT vehicle, bundle_digest, one.method, one.measure, max(one.images) AS images,
                   (max(one.auc) FILTER (one."order" = 'lerf') - max(one.auc) FILTER (one."order" = 'morf')) / 2 AS area
            FROM (
                SELECT vehicle, bundle_digest, filename, sequence,
                       unnest(from_json(road, {literal(ROAD_WINDOWS)})) AS one
                FROM record WHERE road IS NOT NULL
            )
            GROUP BY vehicle, bundle_digest, filename, sequence, one.method, one.measure
        )
        WHERE area IS NOT NULL GROUP BY vehicle, bundle_digest, method, measure ORDER BY ALL
        """,
        files,
    )
    return [(*row[:-1], *row[-1]) for row in rows]


def add_gaps(table: FleetTable, found: dict[Key, Vehicle]) -> None:
    """Add what is missing: records lost, and evicted for the byte cap (a log's newest gap counts all before it)."""
    rows = table.ask(
        "SELECT vehicle, bundle_digest, filename, coalesce(sum(count) FILTER (kind = 'lost'), 0), "
        "coalesce(max(last) FILTER (kind = 'evicted'), 0) FROM record WHERE kind IN ('lost', 'evicted') GROUP BY ALL"
    )
    for name, digest, _, lost, evicted in rows:
        found[name, digest].lost += int(lost)
        found[name, digest].evicted += int(evicted)


def add_events(table: FleetTable, found: dict[Key, Vehicle]) -> None:
    """Add how often each event was logged."""
    rows = table.ask("SELECT vehicle, bundle_digest, name, count(*) FROM record WHERE kind = 'event' GROUP BY ALL")
    for vehicle, digest, name, count in sorted(rows):
        found[vehicle, digest].events[name] = count


def listed_events(table: FleetTable) -> list[Event]:
    """Return the newest drift and degradation events of all vehicles, at most EVENTS_KEPT, newest first."""
    names = ", ".join(map(literal, LISTED))
    rows = table.ask(
        f"SELECT vehicle, wall_ns, name, coalesce(message, '') FROM record WHERE kind = 'event' AND name IN ({names}) "
        f"ORDER BY wall_ns DESC, vehicle, sequence DESC LIMIT {EVENTS_KEPT}"
    )
    return [Event(*row) for row in rows]
