"""A benchmark's result as a table for the terminal, and its samples as Parquet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.folders import new_file

if TYPE_CHECKING:
    from edge_runtime.benchmark import Benchmark, BenchmarkResult, ColdStart, Measurement

STEADY = {True: "yes", False: "no", None: "unknown"}


def format_table(result: BenchmarkResult) -> str:
    """Return the result as plain text: one line per measurement, then the cold starts, then what moved."""
    parts = []
    if result.measurements:
        head = ["bundle", "stage", "batch", "n", "mean ms", "p50", "p90", "p95", "p99", "p99.9", "max", "images/s"]
        rows = [measurement_row(each) for each in result.measurements]
        parts.append(align([[*head, "mJ/image", "deg C", "steady"], *rows]))
    if result.cold_starts:
        phases = list(dict.fromkeys(phase for each in result.cold_starts for phase in each.phases))
        head = ["cold start (median ms)", *phases, "total", "RSS MiB", "peak MiB"]
        parts.append(align([head, *(cold_start_row(each, phases) for each in result.cold_starts)]))
    moved = [
        f"  {each.bundle}, {each.stage}, batch {each.batch}: {what}"
        for each in result.measurements
        for what in each.moved
    ]
    if moved:
        parts.append("\n".join(["not steady:", *moved]))
    return "\n\n".join(parts)


def measurement_row(each: Measurement) -> list[str]:
    latency = each.latency
    milliseconds = (latency.mean, latency.p50, latency.p90, latency.p95, latency.p99, latency.p999, latency.max)
    return [
        each.bundle,
        each.stage,
        str(each.batch),
        str(latency.count),
        *(f"{value:.3f}" for value in milliseconds),
        f"{each.throughput:.1f}",
        "-" if each.joules is None else f"{1e3 * each.joules:.2f}",
        "-" if each.hottest_celsius is None else f"{each.hottest_celsius[1]:.0f}",
        STEADY[each.steady],
    ]


def cold_start_row(each: ColdStart, phases: list[str]) -> list[str]:
    medians = [float(np.median(each.phases[phase])) if phase in each.phases else None for phase in phases]
    memory = [float(np.median(values)) if values else None for values in (each.steady_mib, each.peak_mib)]
    total = sum(value for value in medians if value is not None)
    return [each.bundle, *("-" if value is None else f"{value:.0f}" for value in (*medians, total, *memory))]


def align(rows: list[list[str]]) -> str:
    """Lay out rows of cells below a head: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(row).rstrip() for row in padded)


def write_samples(benchmark: Benchmark, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write every sample as one row of a Parquet file, whole or not at all.

    Columns: bundle, stage, batch, turn, sample, milliseconds; the result without them is in the file's metadata.
    Raises InputError for an existing file without ``force``, a folder that cannot be written, or without pyarrow.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError("writing Parquet needs pyarrow, which is not installed here: pip install pyarrow") from None
    counts = [len(each.milliseconds) for each in benchmark.series]
    table = pyarrow.table(
        {
            "bundle": np.repeat([each.bundle for each in benchmark.series], counts),
            "stage": np.repeat([each.stage for each in benchmark.series], counts),
            "batch": np.repeat([each.batch for each in benchmark.series], counts),
            "turn": np.concatenate([each.turns for each in benchmark.series]),
            "sample": np.concatenate([np.arange(count) for count in counts]),
            "milliseconds": np.concatenate([each.milliseconds for each in benchmark.series]),
        }
    ).replace_schema_metadata({"roadworthy.benchmark": msgspec.json.encode(benchmark.result)})
    with new_file(path, force=force) as temporary:
        parquet.write_table(table, temporary)
    return Path(path)
