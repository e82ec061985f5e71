"""The search's figures: what each candidate costs and gives, with limits, Pareto set and recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.report.figures import COLOURS, STYLE, below, panel
from toolkit.select.constraints import CONSTRAINTS, violated
from toolkit.select.measures import Point
from toolkit.select.outcome import Judged

LIMIT = "#9a9a9a"


@dataclass(frozen=True)
class Axis:
    """What one axis shows: a field of a point, and its heading; ``times`` turns shares into per cent."""

    measure: str
    title: str
    times: float = 1.0

    def values(self, points: Sequence[Point]) -> list[float]:
        return [self.times * getattr(point, self.measure) for point in points]


LATENCY = Axis("latency_ms", "median latency of one classification (ms)")
ACCURACY = Axis("accuracy", "accuracy on validation images (%)", 100)
GINI = Axis("gini", "Gini (higher is sparser)")
ROAD = Axis("road_auc", "ROAD MoRF AUC (lower is more faithful)")
PANELS: dict[str, tuple[Axis, Axis, str]] = {
    "latency_accuracy": (LATENCY, ACCURACY, "Latency and accuracy"),
    "latency_gini": (LATENCY, GINI, "Latency and sparsity"),
    "latency_road": (LATENCY, ROAD, "Latency and faithfulness"),
    "gini_road": (GINI, ROAD, "Sparsity and faithfulness"),
}


def all_figures(judged: Judged) -> dict[str, Figure]:
    """Return every figure by name."""
    with mpl.rc_context(STYLE):
        return {name: _figure(judged, x, y, title) for name, (x, y, title) in PANELS.items()}


def _figure(judged: Judged, x: Axis, y: Axis, title: str) -> Figure:
    figure, axes = panel()
    methods = list(dict.fromkeys(point.candidate.method for point in judged.points))
    for index, method in enumerate(methods):
        mine = [point for point in judged.points if point.candidate.method == method]
        colour = COLOURS[index % len(COLOURS)]
        for kept in (True, False):
            shown = [point for point in mine if kept is not bool(violated(point, judged.limits))]
            face = colour if kept else "none"
            axes.scatter(x.values(shown), y.values(shown), s=42, facecolors=face, edgecolors=colour, zorder=3)
        axes.scatter([], [], s=42, color=colour, label="not pruned" if method == "none" else method)
    _front(axes, judged, x, y)
    for point, across, up in zip(judged.points, x.values(judged.points), y.values(judged.points), strict=True):
        axes.annotate(str(point.number), (across, up), xytext=(5, 4), textcoords="offset points", fontsize=7)
    _limits(axes, judged, x, y)
    axes.set(xlabel=x.title, ylabel=y.title, title=title)
    axes.margins(0.08)
    below(axes)
    return figure


def _front(axes: Axes, judged: Judged, x: Axis, y: Axis) -> None:
    axes.scatter(
        x.values(judged.front),
        y.values(judged.front),
        s=120,
        facecolors="none",
        edgecolors="#444444",
        linewidths=1.0,
        zorder=2,
        label="not dominated",
    )
    if judged.choice is not None:
        chosen = [judged.choice.point]
        axes.scatter(
            x.values(chosen),
            y.values(chosen),
            s=260,
            marker="*",
            facecolors="none",
            edgecolors="#c62828",
            linewidths=1.4,
            zorder=4,
            label="recommended",
        )


def _limits(axes: Axes, judged: Judged, x: Axis, y: Axis) -> None:
    """Draw the limits on either axis as dashed lines; that on the drop of accuracy where it lies on the accuracy."""
    for each in CONSTRAINTS:
        limit = getattr(judged.limits, each.name)
        if limit is None:
            continue
        measure, value = each.measure, limit
        if measure == "drop":
            measure, value = "accuracy", judged.baseline.accuracy - limit / 100
        if measure == x.measure:
            axes.axvline(value * x.times, color=LIMIT, linestyle="--", linewidth=1, zorder=1)
        if measure == y.measure:
            axes.axhline(value * y.times, color=LIMIT, linestyle="--", linewidth=1, zorder=1)
