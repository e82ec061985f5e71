"""The study's tables: ours, mean and standard deviation over seeds, beside the paper's value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.report.tables import MISSING, csv_text
from toolkit.study import paper
from toolkit.study.grid import BySeed, Grid, role
from toolkit.study.paper import Published
from toolkit.study.results import CellResult
from toolkit.study.schema import TIMINGS, Strategy, Subject


@dataclass(frozen=True)
class Entry:
    """One place of a table: our value of each seed, and the paper's (None where it has none)."""

    ours: tuple[float, ...]
    paper: float | None = None

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.ours)) if self.ours else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return float(np.std(self.ours, ddof=1)) if len(self.ours) > 1 else None


@dataclass(frozen=True)
class Table:
    """One table. ``number`` is the paper's (None: the paper has no such table); ``write`` writes a value of
    ours, ``write_paper`` one of the paper's."""

    number: int | None
    subject: str
    title: str
    measure: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    write: Callable[[float], str]
    write_paper: Callable[[float], str] = "{:.1f}".format

    @property
    def heading(self) -> str:
        return f"Table {self.number}: {self.title}" if self.number else self.title[:1].upper() + self.title[1:]

    def cell(self, entry: Entry) -> str:
        """Return "ours ± deviation (paper)", each as far as there is one."""
        ours = MISSING if entry.mean is None else self.write(entry.mean)
        if entry.deviation is not None:
            ours += f" ± {self.write(entry.deviation).lstrip('+')}"
        return ours if entry.paper is None else f"{ours} ({self.write_paper(entry.paper)})"


PERCENT = "{:.1f}".format
DIFFERENCE = "{:+.3f}".format
FRACTION = "{:.3f}".format
RATIO = "{:.2f}".format
NO_PUBLISHED = Published(title="", eps=0.0, gini_table=0, gini={})


def all_tables(grid: Grid) -> list[Table]:
    """Return the paper's tables in its order, then ours."""
    published: list[Table] = []
    further: list[Table] = []
    for subject in grid.study.subjects:
        sources = paper.SUBJECTS.get(subject.compare or "", (NO_PUBLISHED,))
        for index, source in enumerate(sources):
            published += _published(grid, subject, source, whole=index == 0)
        further += [make(grid, subject) for make in FURTHER]
    return [*sorted(published, key=lambda table: table.number or 99), *(each for each in further if each.rows)]


def _published(grid: Grid, subject: Subject, source: Published, *, whole: bool) -> Iterator[Table]:
    """Yield accuracy and Gini with the paper's values; only the ``whole`` ones show columns that it does not have."""
    label = f"{subject.name}" + (f" (paper: {source.title})" if source.title else "")
    strategies = [each for each in grid.study.strategies if whole or _column(each, source) in paper.GINI_COLUMNS]
    if source.accuracy is not None or whole:
        yield Table(
            source.accuracy_table,
            subject.name,
            f"accuracy in %, {label}",
            "accuracy",
            tuple(each.name for each in strategies),
            tuple(
                (TIMINGS[timing], tuple(_accuracy(grid, subject, each, timing, source) for each in strategies))
                for timing in grid.timings() or ["post"]
            ),
            PERCENT,
        )
    compared = [each for each in strategies if role(each) != "natural"]
    timings = [timing for timing in grid.timings() or ["post"] if whole or timing in source.gini["vg"]]
    yield Table(
        source.gini_table or None,
        subject.name,
        f"Gini minus that of the natural network, {label}",
        "gini difference",
        tuple(each.name for each in compared),
        tuple(
            (
                f"{method.upper()}, {TIMINGS[timing]}",
                tuple(_gini(grid, subject, each, timing, method, source) for each in compared),
            )
            for method in grid.study.evaluation.explainers
            for timing in timings
        ),
        DIFFERENCE,
        "{:+.2f}".format,
    )


def _column(strategy: Strategy, source: Published) -> str | None:
    """Return the paper's column of a strategy, for adversarial ones only at the radius of that table."""
    found = role(strategy)
    return None if found == "adversarial" and strategy.eps != source.eps else found


def _accuracy(grid: Grid, subject: Subject, strategy: Strategy, timing: str, source: Published) -> Entry:
    column = _column(strategy, source)
    known = None
    if source.accuracy and column in paper.COLUMNS:
        known = source.accuracy[timing][paper.COLUMNS.index(column)]
    return Entry(_each(grid.get(subject, strategy, timing), lambda result: 100 * result.accuracy), known)


def _gini(grid: Grid, subject: Subject, strategy: Strategy, timing: str, method: str, source: Published) -> Entry:
    column = _column(strategy, source)
    rows = source.gini.get(method, {})
    known = None
    if timing in rows and column in paper.GINI_COLUMNS:
        known = rows[timing][paper.GINI_COLUMNS.index(column)]
    natural = grid.natural(subject)

    def difference(result: CellResult) -> float | None:
        before = natural[result.seed].explainers[method].gini.mean if result.seed in natural else None
        after = result.explainers[method].gini.mean
        return None if before is None or after is None else after - before

    return Entry(_each(grid.get(subject, strategy, timing), difference), known)


def _each(results: BySeed, value: Callable[[CellResult], float | None]) -> tuple[float, ...]:
    values = (value(result) for result in results.values())
    return tuple(each for each in values if each is not None)


def _ours(
    grid: Grid, subject: Subject, measures: Sequence[tuple[str, Callable[[CellResult], float | None]]]
) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    """Return a row for each measure and timing over all strategies; rows without any value are left out."""
    rows = []
    for name, value in measures:
        for timing in grid.timings() or ["post"]:
            entries = tuple(Entry(_each(grid.get(subject, each, timing), value)) for each in grid.study.strategies)
            if any(entry.ours for entry in entries):
                rows.append((f"{name}{TIMINGS[timing]}", entries))
    return tuple(rows)


def _columns(grid: Grid) -> tuple[str, ...]:
    return tuple(strategy.name for strategy in grid.study.strategies)


def _robust(grid: Grid, subject: Subject) -> Table:
    options = grid.study.evaluation

    def value(result: CellResult) -> float | None:
        return None if result.robust_accuracy is None else 100 * result.robust_accuracy

    return Table(
        None,
        subject.name,
        f"accuracy in % under PGD-{options.robust_steps} of radius {options.robust_eps:g}, {subject.name}",
        "robust accuracy",
        _columns(grid),
        _ours(grid, subject, [("", value)]),
        PERCENT,
    )


def _norm(grid: Grid, subject: Subject) -> Table:
    natural = grid.natural(subject)

    def value(method: str) -> Callable[[CellResult], float | None]:
        def ratio(result: CellResult) -> float | None:
            before = natural[result.seed].explainers[method].gradient_norm.mean if result.seed in natural else None
            after = result.explainers[method].gradient_norm.mean
            return None if not before or after is None else after / before

        return ratio

    return Table(
        None,
        subject.name,
        f"norm of the explanation, as a multiple of the natural network's, {subject.name}",
        "norm ratio",
        _columns(grid),
        _ours(grid, subject, [(f"{name.upper()}, ", value(name)) for name in grid.study.evaluation.explainers]),
        RATIO,
    )


def _road(grid: Grid, subject: Subject) -> Table:
    def value(method: str, order: str) -> Callable[[CellResult], float | None]:
        def area(result: CellResult) -> float | None:
            road = result.explainers[method].road
            return None if road is None else road.area(order)

        return area

    measures = [
        (f"{method.upper()} {title}, ", value(method, order))
        for method in grid.study.evaluation.explainers
        for order, title in (("morf", "MoRF"), ("lerf", "LeRF"))
    ]
    return Table(
        None,
        subject.name,
        f"area under the ROAD curves, {subject.name} (faithful: MoRF low, LeRF high)",
        "road area",
        _columns(grid),
        _ours(grid, subject, measures),
        FRACTION,
    )


FURTHER: tuple[Callable[[Grid, Subject], Table], ...] = (_robust, _norm, _road)


def markdown(tables: Sequence[Table], title: str) -> str:
    """Return all tables as Markdown."""
    lines = [f"# {title}", "", "Ours ± standard deviation over seeds (the paper's value).", ""]
    for table in tables:
        lines += [f"## {table.heading}", "", f"| | {' | '.join(table.columns)} |"]
        lines += ["| --- |" + " --- |" * len(table.columns)]
        lines += [f"| {name} | {' | '.join(table.cell(entry) for entry in row)} |" for name, row in table.rows]
        lines += [""]
    return "\n".join(lines)


def csv(tables: Sequence[Table]) -> str:
    """Return all tables as one CSV, a line for each place."""
    header = ["table", "subject", "measure", "row", "column", "seeds", "mean", "deviation", "paper"]
    return csv_text(
        header,
        (
            [
                table.number,
                table.subject,
                table.measure,
                name,
                column,
                len(each.ours),
                each.mean,
                each.deviation,
                each.paper,
            ]
            for table in tables
            for name, row in table.rows
            for column, each in zip(table.columns, row, strict=True)
        ),
    )
