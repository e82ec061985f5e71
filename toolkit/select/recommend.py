"""Which of the feasible candidates to take, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolkit.select.constraints import Limits, feasible
from toolkit.select.measures import OBJECTIVES, Point
from toolkit.select.pareto import pareto

SPAN = 10
"""Resolutions that a difference must reach to count in full: hair's breadths in one objective do not decide."""


@dataclass(frozen=True)
class Choice:
    """The recommended point, its distance from the ideal one, and the runner-up, None where there is none."""

    point: Point
    distance: float
    runner_up: Point | None
    runner_up_distance: float | None
    feasible: int
    measured: int
    pareto: int


def distances(front: Sequence[Point]) -> list[float]:
    """Return each point's Euclidean distance from the ideal point, which has the best of ``front`` in every objective.

    Every objective is scaled by its range over ``front``, but by no less than ``SPAN`` resolutions.
    """
    squares = [0.0] * len(front)
    for each in OBJECTIVES:
        values = [each.sign * getattr(point, each.name) for point in front]
        best = min(values)
        span = max(max(values) - best, SPAN * each.resolution)
        squares = [square + ((value - best) / span) ** 2 for square, value in zip(squares, values, strict=True)]
    return [math.sqrt(square) for square in squares]


def recommend(points: Sequence[Point], limits: Limits) -> Choice | None:
    """Return the feasible Pareto point nearest to the ideal one, of equal ones the fastest; None without any."""
    allowed = feasible(points, limits)
    if not allowed:
        return None
    front = pareto(allowed)
    ranked = sorted(
        zip(distances(front), front, strict=True), key=lambda pair: (pair[0], pair[1].latency_ratio, pair[1].number)
    )
    (distance, point), *others = ranked
    return Choice(
        point=point,
        distance=distance,
        runner_up=others[0][1] if others else None,
        runner_up_distance=others[0][0] if others else None,
        feasible=len(allowed),
        measured=len(points),
        pareto=len(front),
    )


def reasons(choice: Choice, baseline: Point, limits: Limits) -> Iterator[str]:
    """Yield lines that say why this candidate, and what it costs and gains against the unpruned network."""
    point = choice.point
    kept = f"{_are(choice.feasible, 'keep', 'keeps')} to the limits, " if limits.given() else ""
    yield (
        f"{point.name}: of {choice.measured} measured candidates {kept}{_are(choice.pareto, 'are', 'is')} dominated by "
        f"no other, and this one is the nearest to the best of each measure (distance {choice.distance:.2f})"
    )
    if choice.runner_up is not None:
        yield f"next: {choice.runner_up.name}, distance {choice.runner_up_distance:.2f}"
    if point.number == baseline.number:
        yield "pruning does not pay here: nothing that was measured beats the unpruned network as a whole"
    else:
        yield f"against the unpruned network: {', '.join(compared(point, baseline))}"
    for each in limits.given():
        value, limit = each.value(point), float(getattr(limits, each.name))
        yield f"limit: {each.title} {each.write(value)}, {each.asks} {each.write(limit)} allowed"


def compared(point: Point, baseline: Point) -> Iterator[str]:
    """Yield what changes against the unpruned network, measure by measure."""
    yield f"latency {baseline.latency_ms:.3g} -> {point.latency_ms:.3g} ms ({point.latency_ratio - 1:+.0%})"
    yield f"accuracy {baseline.accuracy:.2%} -> {point.accuracy:.2%} ({_no_minus_zero(-point.drop, 2):+.2f} points)"
    yield f"Gini {baseline.gini:.3f} -> {point.gini:.3f} ({point.gini - baseline.gini:+.3f})"
    yield f"ROAD MoRF AUC {baseline.road_auc:.3f} -> {point.road_auc:.3f} ({point.road_auc - baseline.road_auc:+.3f})"
    yield f"size {baseline.size_mb:.3g} -> {point.size_mb:.3g} MB ({point.size_mb / baseline.size_mb - 1:+.0%})"


def _are(count: int, many: str, one: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _no_minus_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0
