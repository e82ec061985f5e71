"""Limits on what a vehicle may pay and must get, and which of them binds where nothing meets them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from edge_runtime.errors import InputError
from toolkit.select.measures import Point

ROUNDING = 1e-9
"""Of subtractions: a drop of exactly the limit keeps to it."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a candidate must keep to; None where there is no limit. Raises InputError for what nothing could meet.

    ``max_latency_ms``: median latency of one classification; ``max_accuracy_drop``: percentage points against the
    unpruned network; ``max_size_mb``: megabytes of ``classifier.onnx``.
    """

    max_latency_ms: float | None = None
    max_accuracy_drop: float | None = None
    min_gini: float | None = None
    max_road_auc: float | None = None
    max_size_mb: float | None = None

    def __post_init__(self) -> None:
        for constraint in CONSTRAINTS:
            value = getattr(self, constraint.name)
            if value is None:
                continue
            if constraint.range is None and not 0 < value < math.inf:
                raise InputError(f"{constraint.option} {value:g} is not above 0 ({constraint.about})")
            if constraint.range is not None and not constraint.range[0] <= value <= constraint.range[1]:
                low, high = constraint.range
                raise InputError(f"{constraint.option} {value:g} is outside {low:g} .. {high:g} ({constraint.about})")

    def given(self) -> list[Constraint]:
        """Return the constraints that have a limit."""
        return [constraint for constraint in CONSTRAINTS if getattr(self, constraint.name) is not None]


@dataclass(frozen=True)
class Constraint:
    """One kind of limit on the field ``measure`` of a point: a largest value, or a smallest where ``sign`` is -1.

    ``range`` is what can be asked for, None for any number above 0. Excesses of different kinds are weighed against
    each other in units of ``scale``, or of the limit itself where that is None.
    """

    name: str
    measure: str
    title: str
    sign: int
    range: tuple[float, float] | None
    scale: float | None
    form: str
    about: str

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def asks(self) -> str:
        return "at most" if self.sign > 0 else "at least"

    def value(self, point: Point) -> float:
        return float(getattr(point, self.measure))

    def excess(self, point: Point, limits: Limits) -> float:
        """Return by how much ``point`` misses its limit, in units of ``scale``; 0 or less where it keeps to it."""
        limit = float(getattr(limits, self.name))
        return self.sign * (self.value(point) - limit) / (self.scale or limit)

    def misses(self, point: Point, limits: Limits) -> bool:
        return self.excess(point, limits) > ROUNDING

    def best(self, points: Sequence[Point]) -> Point:
        """Return the point that comes nearest to any limit of this kind."""
        return min(points, key=lambda point: (self.sign * self.value(point), point.number))

    def write(self, value: float) -> str:
        return self.form.format(value)


CONSTRAINTS: tuple[Constraint, ...] = (
    Constraint(
        "max_latency_ms",
        "latency_ms",
        "latency",
        1,
        None,
        None,
        "{:.3g} ms",
        "milliseconds of one classification",
    ),
    Constraint(
        "max_accuracy_drop", "drop", "accuracy drop", 1, (-100, 100), 10.0, "{:.2f} points", "percentage points"
    ),
    Constraint("min_gini", "gini", "Gini", -1, (0, 1), 0.1, "{:.3f}", "0 is an even map, 1 a single pixel"),
    Constraint("max_road_auc", "road_auc", "ROAD MoRF AUC", 1, (0, 1), 0.1, "{:.3f}", "the lower, the more faithful"),
    Constraint("max_size_mb", "size_mb", "size", 1, None, None, "{:.3g} MB", "megabytes of the classifier"),
)


def violated(point: Point, limits: Limits) -> frozenset[str]:
    """Return the names of the limits that ``point`` does not keep to."""
    return frozenset(each.name for each in limits.given() if each.misses(point, limits))


def feasible(points: Sequence[Point], limits: Limits) -> list[Point]:
    """Return the points that keep to every limit."""
    return [point for point in points if not violated(point, limits)]


@dataclass(frozen=True)
class Binding:
    """A smallest set of limits without which some point would do, and that point."""

    names: frozenset[str]
    point: Point

    @property
    def titles(self) -> str:
        return " and ".join(each.title for each in CONSTRAINTS if each.name in self.names)


def binding(points: Sequence[Point], limits: Limits) -> list[Binding]:
    """Return every smallest set of limits whose removal makes some point feasible; none where a point is feasible.

    The set comes first whose point misses its limits by least, in the constraints' scales; of each set the same.
    """
    missed = {point.number: violated(point, limits) for point in points}
    fewest = min((len(names) for names in missed.values()), default=0)
    if not fewest:
        return []
    found: dict[frozenset[str], tuple[float, Point]] = {}
    for point in points:
        names = missed[point.number]
        if len(names) == fewest:
            excess = sum(each.excess(point, limits) for each in CONSTRAINTS if each.name in names)
            if names not in found or excess < found[names][0]:
                found[names] = (excess, point)
    return [Binding(names, point) for names, (_, point) in sorted(found.items(), key=lambda item: item[1][0])]


def explain(points: Sequence[Point], limits: Limits) -> Iterator[str]:
    """Yield lines that say why no point is feasible: the best of every limit, and which limits bind."""
    for each in limits.given():
        limit = float(getattr(limits, each.name))
        best = each.best(points)
        kept = sum(not each.misses(point, limits) for point in points)
        reached = f"met by {kept} of {len(points)}" if kept else "met by none"
        yield (
            f"{each.title} {each.asks} {each.write(limit)}: {reached}; best {each.write(each.value(best))}, {best.name}"
        )
    for index, found in enumerate(binding(points, limits)):
        bind = "binds" if len(found.names) == 1 else "bind together"
        opening = f"{found.titles} {bind}" if index == 0 else f"or {found.titles} {bind}"
        yield f"{opening}: without {'it' if len(found.names) == 1 else 'them'} {found.point.name} would do"
