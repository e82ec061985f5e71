"""The road's figures: every vehicle's latency and Gini, and both against each other with the desktop beside them."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.figures import COLOURS, LEGEND_ROW, MARKERS, STYLE, fitted_legend, panel
from toolkit.report.fleet import Key, Spread, Vehicle
from toolkit.report.fleet_summary import Fleet
from toolkit.report.fleet_tables import ON_THE_ROAD, explainers, slowest_first

ROWS = 24  # vehicles in a figure; the CSV files hold all


def fleet_figures(fleet: Fleet) -> dict[str, Figure]:
    """Return every figure that the logs allow, by file name."""
    found: dict[str, Figure] = {}
    timed = [vehicle for vehicle in slowest_first(fleet) if "classify" in vehicle.latency]
    with mpl.rc_context(STYLE):
        if timed:
            found["fleet_latency"] = latencies(fleet, timed)
        for method in METHOD_TITLES:
            gini = {v.key: v.gini[method] for v in fleet.vehicles if method in v.gini}
            on_road = f"{method} {ON_THE_ROAD}"
            road = {v.key: v.road[on_road] for v in fleet.vehicles if on_road in v.road}
            for title, measure, values in (("Gini", "gini", gini), ("ROAD", "road", road)):
                if values:
                    found[f"fleet_{measure}_{method}"] = distributions(fleet, title, measure, values, method)
        if timed and explainers(fleet):
            found["fleet_tradeoff"] = tradeoff(fleet)
    return found


def colour_of(fleet: Fleet) -> dict[str, str]:
    """Return a colour for every bundle, by digest."""
    digests = list(dict.fromkeys(vehicle.digest for vehicle in fleet.vehicles))
    return {digest: COLOURS[(index + 1) % len(COLOURS)] for index, digest in enumerate(digests)}


def latencies(fleet: Fleet, timed: list[Vehicle]) -> Figure:
    """A line from p50 to p99 for each vehicle, with a tick at p95; the slowest on top."""
    shown = sorted(timed, key=lambda vehicle: vehicle.latency["classify"].p99)[-ROWS:]
    figure, axes = rows(shown)
    colours = colour_of(fleet)
    for place, vehicle in enumerate(shown):
        found, colour = vehicle.latency["classify"], colours[vehicle.digest]
        axes.plot([found.p50, found.p99], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot([found.p50], [place], color=colour, marker="o", markersize=5)
        axes.plot([found.p95, found.p99], [place, place], color=colour, marker="|", markersize=8, linestyle="none")
    axes.set(xlabel="one classification, ms: median, p95, p99", title="Latency on the road")
    axes.set_xlim(left=0)
    name_bundles(fleet, figure)
    return figure


def distributions(fleet: Fleet, title: str, measure: str, found: dict[Key, Spread], method: str) -> Figure:
    """The middle 90 % of a measure of each vehicle, with its mean, over the desktop's, drawn in grey."""
    shown = [vehicle for vehicle in slowest_first(fleet) if vehicle.key in found][:ROWS][::-1]
    figure, axes = rows(shown)
    colours = colour_of(fleet)
    for place, vehicle in enumerate(shown):
        base = fleet.base(vehicle, measure, method)
        if base is not None:
            axes.barh(place, base.p95 - base.p5, left=base.p5, height=0.7, color="#cfd6de")
            point(axes, base.mean, place, color="#5b6470", marker="D", markersize=4)
        spread, colour = found[vehicle.key], colours[vehicle.digest]
        axes.plot([spread.p5, spread.p95], [place, place], color=colour, linewidth=2)
        point(axes, spread.mean, place, color=colour, marker="o", markersize=5)
    axes.plot([], [], color="#5b6470", marker="D", linestyle="none", label="desktop: mean, middle 90 %")
    axes.set(xlabel=f"{title}: mean, middle 90 %", title=f"{title}, {METHOD_TITLES[method]}")
    name_bundles(fleet, figure)
    return figure


def tradeoff(fleet: Fleet) -> Figure:
    """Median latency against mean Gini: filled for vehicles, hollow for the desktop."""
    figure, axes = panel()
    colours = colour_of(fleet)
    for vehicle in fleet.vehicles:
        colour, timed = colours[vehicle.digest], vehicle.latency.get("classify")
        if timed is not None:
            for method, found in vehicle.gini.items():
                point(axes, timed.p50, found.mean, color=colour, marker=MARKERS[method], markersize=6, alpha=0.8)
    for digest, desktop in fleet.desktops.items():
        for method, base in desktop.gini.items() if digest in colours else ():
            if desktop.latency is not None:
                hollow = {"color": colours[digest], "markerfacecolor": "none", "markersize": 9}
                point(axes, desktop.latency, base.mean, marker=MARKERS[method], **hollow)
    for method in explainers(fleet):
        axes.plot([], [], color="#777777", marker=MARKERS[method], linestyle="none", label=METHOD_TITLES[method])
    axes.set_xlim(left=0)
    axes.set(
        xlabel="median latency of one classification (ms)",
        ylabel="Gini (higher is sparser)",
        title="Latency and sparsity on the road",
    )
    name_bundles(fleet, figure)
    return figure


def point(axes: Axes, x: float, y: float, **style: Any) -> None:
    """Draw one marker."""
    axes.plot([x], [y], linestyle="none", **style)


def name_bundles(fleet: Fleet, figure: Figure) -> None:
    """Add the bundles' colours to the legend, under the axes."""
    (axes,) = figure.axes
    colours = colour_of(fleet)
    for digest, name in {vehicle.digest: fleet.bundle(vehicle) for vehicle in fleet.vehicles}.items():
        axes.plot([], [], color=colours[digest], marker="o", linestyle="none", label=name)
    taken = fitted_legend(figure, figure, loc="outside lower center")
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (taken - 1))


def rows(shown: list[Vehicle]) -> tuple[Figure, Axes]:
    """Return a figure with one row for each vehicle."""
    figure = Figure(figsize=(4.6, 1.8 + 0.24 * max(len(shown), 4)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(shown)), [vehicle.name for vehicle in shown], fontsize=8)
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.grid(axis="y", visible=False)
    return figure, axes
