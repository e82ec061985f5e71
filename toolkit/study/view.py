"""The live view of a study's grid on a terminal; elsewhere one line for each cell that ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from toolkit.study.cells import Cell
from toolkit.study.engine import View

LINES = 12  # cells shown above and below those that run, so that large grids fit a terminal


@dataclass
class Running:
    """A cell under way: since when, and what it does."""

    began: float
    doing: str = ""


@dataclass
class GridView:
    """Every cell's state; ``console`` is asked for its kind once. ``estimates`` are seconds by cell name."""

    cells: Sequence[Cell]
    states: dict[str, str]
    estimates: Mapping[str, float]
    console: Console
    running: dict[str, Running] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def started(self, cell: Cell) -> None:
        self.running[cell.name] = Running(time.perf_counter())
        self.states[cell.name] = "running"

    def step(self, cell: Cell, doing: str, done: float) -> None:
        if cell.name in self.running:
            self.running[cell.name].doing = f"{doing} {done:.0%}"

    def done(self, cell: Cell, seconds: float) -> None:
        self.states[cell.name] = "done"
        self._ended(cell, f"{cell.name}: done in {duration(seconds)}")

    def failed(self, cell: Cell, reason: str) -> None:
        self.states[cell.name] = "failed"
        self.reasons[cell.name] = reason
        self._ended(cell, f"{cell.name}: failed: {reason}")

    def _ended(self, cell: Cell, line: str) -> None:
        self.running.pop(cell.name, None)
        if not self.console.is_terminal:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def left(self) -> float:
        """Return the estimated seconds until everything is done, if as many cells as now run side by side."""
        under_way = sum(self._remaining(name) for name in self.running)
        waiting = sum(
            self.estimates.get(cell.name, 0.0)
            for cell in self.cells
            if self._open(cell) and cell.name not in self.running
        )
        return (under_way + waiting) / max(1, len(self.running))

    def _remaining(self, name: str) -> float:
        """Return the estimated seconds of a running cell that are left."""
        return max(0.0, self.estimates.get(name, 0.0) - (time.perf_counter() - self.running[name].began))

    def _open(self, cell: Cell) -> bool:
        return self.states[cell.name] not in ("done", "failed")

    def __rich__(self) -> Group:
        counts = {state: list(self.states.values()).count(state) for state in ("done", "running", "failed")}
        head = f"{counts['done']} of {len(self.cells)} cells done, {counts['failed']} failed"
        table = Table(box=None, pad_edge=False)
        for column in ("cell", "state", ""):
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        for cell in self._shown():
            state = self.states[cell.name]
            table.add_row(cell.name, Text(state, style=STYLES.get(state, "")), self._remark(cell))
        return Group(table, Text(f"{head}; about {duration(self.left())} left"))

    def _shown(self) -> list[Cell]:
        """Return the failed cells, those that run, and those around the first of them."""
        place = next((index for index, cell in enumerate(self.cells) if cell.name in self.running), 0)
        return [
            cell
            for index, cell in enumerate(self.cells)
            if abs(index - place) <= LINES or cell.name in self.running or cell.name in self.reasons
        ]

    def _remark(self, cell: Cell) -> str:
        if cell.name in self.running:
            return f"{self.running[cell.name].doing}, about {duration(self._remaining(cell.name))} left"
        if cell.name in self.reasons:
            return self.reasons[cell.name]
        return "" if not self._open(cell) else f"about {duration(self.estimates.get(cell.name, 0.0))}"


STYLES = {"done": "green", "running": "bold cyan", "failed": "bold red"}


@contextlib.contextmanager
def watching(cells: Sequence[Cell], states: dict[str, str], estimates: Mapping[str, float]) -> Iterator[View]:
    """Yield a view on stderr: a live grid on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    view = GridView(cells, states, estimates, console)
    if not console.is_terminal:
        yield view
        return
    with Live(view, console=console, refresh_per_second=2):
        yield view


def duration(seconds: float) -> str:
    """Return seconds for people: 8 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
