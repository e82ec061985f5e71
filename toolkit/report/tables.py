"""The report's tables: one row for each bundle, as text for the page and as numbers for the CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.summary import Estimate, Summary

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of the main table: heading, its unit or meaning, the number behind a cell, and how it is written."""

    name: str
    hint: str
    value: Callable[[Summary], float | None]
    write: Callable[[float], str]

    def cell(self, summary: Summary) -> str:
        value = self.value(summary)
        return MISSING if value is None or value != value else self.write(value)


def _estimate(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _latency(percentile: str) -> Callable[[Summary], float | None]:
    return lambda summary: getattr(summary.latency.get("classify"), percentile, None)


def _gini(method: str) -> Callable[[Summary], float | None]:
    return lambda summary: _estimate(summary.gini.get(method))


def _road(method: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.road[method].combined if method in summary.road else None


def _count(value: float) -> str:
    """Write a count with the unit that leaves three digits: 1.23 M, 45.6 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


COLUMNS: tuple[Column, ...] = (
    Column("accuracy", "on the audit set", lambda s: _estimate(s.accuracy), lambda v: f"{v:.1%}"),
    Column("size", "classifier.onnx", lambda s: s.size, lambda v: f"{v / 1e6:.2f} MB"),
    Column("weights", "stored", lambda s: s.parameters, _count),
    Column("not zero", "weights left by masks", lambda s: s.nonzero_parameters, _count),
    Column("MACs", "one image", lambda s: s.macs, _count),
    Column("p50", "classification, ms", _latency("p50"), lambda v: f"{v:.2f}"),
    Column("p95", "classification, ms", _latency("p95"), lambda v: f"{v:.2f}"),
    Column("p99", "classification, ms", _latency("p99"), lambda v: f"{v:.2f}"),
    *(Column(f"Gini {m.upper()}", f"{name}: sparsity", _gini(m), "{:.3f}".format) for m, name in METHOD_TITLES.items()),
    *(
        Column(f"ROAD {m.upper()}", f"{name}: faithfulness", _road(m), "{:+.3f}".format)
        for m, name in METHOD_TITLES.items()
    ),
)


def data_files(summaries: Sequence[Summary]) -> dict[str, str]:
    """Return the CSV files of everything that tables and figures show, by file name."""
    return {
        "variants.csv": _csv(
            ["variant", *(column.name for column in COLUMNS)],
            ([s.name, *(column.value(s) for column in COLUMNS)] for s in summaries),
        ),
        "gini.csv": _csv(
            ["variant", "explainer", "mean", "low", "high"],
            ([s.name, method, g.value, g.low, g.high] for s in summaries for method, g in s.gini.items()),
        ),
        "gradient_norm.csv": _csv(
            ["variant", "explainer", "mean", "low", "high"],
            ([s.name, method, g.value, g.low, g.high] for s in summaries for method, g in s.gradient_norm.items()),
        ),
        "latency.csv": _csv(
            ["variant", "task", "p50_ms", "p95_ms", "p99_ms"],
            ([s.name, task, t.p50, t.p95, t.p99] for s in summaries for task, t in s.latency.items()),
        ),
        "road.csv": _csv(
            ["variant", "explainer", "removed_percent", "morf_accuracy", "lerf_accuracy"],
            (
                [s.name, method, *point]
                for s in summaries
                for method, curves in s.road.items()
                for point in zip(curves.percentages, curves.morf, curves.lerf, strict=True)
            ),
        ),
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
