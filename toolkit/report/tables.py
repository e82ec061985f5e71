"""The report's tables: one row for each bundle, as text for the page and as numbers for the CSV files."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.summary import Estimate, Summary

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of the main table: its group, heading, the number behind a cell, and how it is written."""

    group: str
    name: str
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


LATENCY = "one classification, ms"
COLUMNS: tuple[Column, ...] = (
    Column("on the audit set", "accuracy", lambda s: _estimate(s.accuracy), "{:.1%}".format),
    Column("what is stored and computed", "size", lambda s: s.size, lambda v: f"{v / 1e6:.2f} MB"),
    Column("what is stored and computed", "weights", lambda s: s.parameters, _count),
    Column("what is stored and computed", "not zero", lambda s: s.nonzero_parameters, _count),
    Column("what is stored and computed", "MACs", lambda s: s.macs, _count),
    *(Column(LATENCY, name, _latency(name), "{:.2f}".format) for name in ("p50", "p95", "p99")),
    *(Column("sparsity", f"Gini {method.upper()}", _gini(method), "{:.3f}".format) for method in METHOD_TITLES),
    *(Column("faithfulness", f"ROAD {method.upper()}", _road(method), "{:+.3f}".format) for method in METHOD_TITLES),
)


class Grouped(Protocol):
    """A column that stands under a common heading with its neighbours."""

    @property
    def group(self) -> str: ...


def groups(columns: Iterable[Grouped]) -> list[tuple[str, int]]:
    """Return the groups of the columns, each with how many columns it spans."""
    return [(name, len(list(members))) for name, members in itertools.groupby(columns, lambda column: column.group)]


def data_files(summaries: Sequence[Summary]) -> dict[str, str]:
    """Return the CSV files of everything that tables and figures show, by file name."""
    return {
        "variants.csv": csv_text(
            ["variant", *(column.name for column in COLUMNS)],
            ([s.name, *(column.value(s) for column in COLUMNS)] for s in summaries),
        ),
        "gini.csv": csv_text(
            ["variant", "explainer", "mean", "low", "high"],
            ([s.name, method, g.value, g.low, g.high] for s in summaries for method, g in s.gini.items()),
        ),
        "gradient_norm.csv": csv_text(
            ["variant", "explainer", "mean", "low", "high"],
            ([s.name, method, g.value, g.low, g.high] for s in summaries for method, g in s.gradient_norm.items()),
        ),
        "latency.csv": csv_text(
            ["variant", "task", "p50_ms", "p95_ms", "p99_ms"],
            ([s.name, task, t.p50, t.p95, t.p99] for s in summaries for task, t in s.latency.items()),
        ),
        "road.csv": csv_text(
            ["variant", "explainer", "removed_percent", "morf_accuracy", "lerf_accuracy"],
            (
                [s.name, method, *point]
                for s in summaries
                for method, curves in s.road.items()
                for point in zip(curves.percentages, curves.morf, curves.lerf, strict=True)
            ),
        ),
    }


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
