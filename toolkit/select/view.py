"""The live view of a search on a terminal; elsewhere one line for each candidate that ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from toolkit.select.constraints import CONSTRAINTS, Limits, violated
from toolkit.select.measures import Point, Record
from toolkit.select.recommend import recommend
from toolkit.select.search import View
from toolkit.select.store import Trial
from toolkit.study.view import duration

LINES = 16  # the newest candidates shown


@dataclass
class SearchView:
    """Every candidate that ended, the one that runs, and the best so far; ``total`` is how many there will be."""

    limits: Limits
    total: int
    console: Console
    records: dict[int, Record] = field(default_factory=dict)
    known: dict[int, Point] = field(default_factory=dict)
    running: Trial | None = None
    doing: str = ""
    began: float = 0.0

    def resumed(self, records: list[Record], known: list[Point]) -> None:
        self.records |= {record.number: record for record in records}
        self.known = {point.number: point for point in known}
        self._say(f"{len(records)} candidates are known from an earlier start")

    def started(self, trial: Trial) -> None:
        self.running, self.doing, self.began = trial, "", time.perf_counter()

    def step(self, doing: str, done: float) -> None:
        self.doing = f"{doing} {done:.0%}"

    def ended(self, record: Record, known: list[Point]) -> None:
        again = "timed again: " if record.confirmed else ""
        self.running, self.known = None, {point.number: point for point in known}
        self.records[record.number] = record
        self._say(f"trial {record.number} ({record.candidate.label}): {again}{self.verdict(record)}")

    def _say(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def verdict(self, record: Record) -> str:
        """Return the figures of a candidate and what it misses, or why it failed."""
        point = self.known.get(record.number)
        if point is None:
            return f"failed: {record.reason}"
        missed = violated(point, self.limits)
        titles = ", ".join(each.title for each in CONSTRAINTS if each.name in missed)
        return f"{figures(point)}{f'; misses {titles}' if titles else ''}"

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "candidate", ""):
            table.add_column(column, overflow="ellipsis", no_wrap=column != "")
        for number, record in list(self.records.items())[-LINES:]:
            table.add_row(str(number), record.candidate.label, Text(self.verdict(record), style=self._style(number)))
        if self.running is not None:
            elapsed = duration(time.perf_counter() - self.began)
            table.add_row(str(self.running.number), self.running.candidate.label, f"{self.doing} ({elapsed})")
        return Group(table, Text(self.best()))

    def _style(self, number: int) -> str:
        point = self.known.get(number)
        return "red" if point is None else "dim" if violated(point, self.limits) else "green"

    def best(self) -> str:
        choice = recommend(list(self.known.values()), self.limits)
        count = f"{len(self.records)} of up to {self.total} candidates"
        return f"{count}; best so far: {choice.point.name}" if choice else f"{count}; none keeps to the limits so far"


def figures(point: Point) -> str:
    """Return a candidate's measures on one line."""
    return (
        f"{point.latency_ms:.3g} ms ({point.latency_ratio:.0%}), {point.accuracy:.2%}, Gini {point.gini:.3f}, "
        f"ROAD {point.road_auc:.3f}, {point.size_mb:.3g} MB"
    )


@contextlib.contextmanager
def watching(limits: Limits, total: int) -> Iterator[View]:
    """Yield a view on stderr: a live table on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    view = SearchView(limits, total, console)
    if not console.is_terminal:
        yield view
        return
    with Live(view, console=console, refresh_per_second=2):
        yield view
