"""The report's figures, one small matplotlib figure for each panel so that a page can lay them out for any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.summary import Summary

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
LEGEND_COLUMNS = 3
LEGEND_POINTS = 8
LEGEND_ROW = 0.18  # inches
MARKERS = {"vg": "o", "ig": "s", "sg": "^"}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    # Names of variants and vehicles are no formulae.
    "text.parse_math": False,
    # Text stays text: smaller files, and readers can select it.
    "svg.fonttype": "none",
    # Without a salt the identifiers inside an SVG differ from run to run.
    "svg.hashsalt": "roadworthy",
    "savefig.dpi": 160,
}


def all_figures(summaries: Sequence[Summary]) -> dict[str, Figure]:
    """Return every figure that the measurements allow, by file name."""
    figures = {}
    with mpl.rc_context(STYLE):
        for method in METHOD_TITLES:
            if any(method in summary.road for summary in summaries):
                figures[f"road_{method}"] = road_curves(summaries, method)
        if any(summary.gini for summary in summaries):
            figures["gini"] = gini_bars(summaries)
        if any(summary.latency and summary.gini for summary in summaries):
            figures["latency_gini"] = latency_against_gini(summaries)
        if any(summary.latency and summary.road for summary in summaries):
            figures["latency_road"] = latency_against_road(summaries)
        for index in range(example_count(summaries)):
            figures[f"saliency_{index + 1}"] = saliency_grid(summaries, index)
    return figures


def road_curves(summaries: Sequence[Summary], method: str) -> Figure:
    """Accuracy against removed pixels for one explainer: MoRF solid (steep is faithful), LeRF dashed."""
    figure, axes = panel()
    for summary, colour in zip(summaries, colours(summaries), strict=True):
        if method in summary.road:
            curves = summary.road[method]
            axes.plot(curves.percentages, curves.morf, color=colour, marker=".", label=summary.name)
            axes.plot(curves.percentages, curves.lerf, color=colour, linestyle="--", linewidth=1)
    axes.set(
        xlabel="pixels removed (%)", ylabel="accuracy", title=METHOD_TITLES[method], xlim=(0, 100), ylim=(-0.02, 1.02)
    )
    below(axes, title="MoRF solid, LeRF dashed")
    return figure


def gini_bars(summaries: Sequence[Summary]) -> Figure:
    """Mean Gini of each explainer and variant, with 95 % intervals."""
    figure, axes = panel()
    width = 0.8 / len(summaries)
    for index, (summary, colour) in enumerate(zip(summaries, colours(summaries), strict=True)):
        shown = [method for method in METHOD_TITLES if method in summary.gini]
        places = np.array([list(METHOD_TITLES).index(method) for method in shown]) + (index + 0.5) * width - 0.4
        estimates = [summary.gini[method] for method in shown]
        errors = [
            [value.value - (value.low if value.low is not None else value.value) for value in estimates],
            [(value.high if value.high is not None else value.value) - value.value for value in estimates],
        ]
        axes.bar(places, [value.value for value in estimates], width, yerr=errors, color=colour, label=summary.name)
    axes.set_xticks(range(len(METHOD_TITLES)), list(METHOD_TITLES.values()))
    axes.tick_params(axis="x", labelsize=8)
    axes.set(ylabel="Gini (higher is sparser)", title="Sparsity of the explanations")
    below(axes)
    return figure


def latency_against_gini(summaries: Sequence[Summary]) -> Figure:
    """Latency of a classification against sparsity."""
    figure, axes = panel()
    scatter(axes, summaries, {s.name: {m: value.value for m, value in s.gini.items()} for s in summaries})
    axes.set(ylabel="Gini (higher is sparser)", title="Latency and sparsity")
    return figure


def latency_against_road(summaries: Sequence[Summary]) -> Figure:
    """Latency of a classification against faithfulness."""
    figure, axes = panel()
    scatter(axes, summaries, {s.name: {m: curves.combined for m, curves in s.road.items()} for s in summaries})
    axes.set(ylabel="ROAD (higher is more faithful)", title="Latency and faithfulness")
    return figure


def scatter(axes: Axes, summaries: Sequence[Summary], values: dict[str, dict[str, float]]) -> None:
    """Draw one marker for each variant (colour) and explainer (shape) at the median latency of a classification.

    The tails stand in the table: on a busy device their whiskers would squeeze the medians together.
    """
    for summary, colour in zip(summaries, colours(summaries), strict=True):
        if "classify" not in summary.latency:
            continue
        median = summary.latency["classify"].p50
        for method, value in values[summary.name].items():
            axes.plot([median], [value], color=colour, marker=MARKERS[method], linestyle="none", markersize=7)
        axes.plot([], [], color=colour, marker="o", linestyle="none", label=summary.name)
    for method, marker in MARKERS.items():
        axes.plot([], [], color="#777777", marker=marker, linestyle="none", label=METHOD_TITLES[method])
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("median latency of one classification (ms)")
    below(axes)


def saliency_grid(summaries: Sequence[Summary], index: int) -> Figure:
    """One image as every variant sees it: rows are variants, columns the image and its explanations."""
    shown = [summary for summary in summaries if summary.examples is not None]
    methods = [method for method in METHOD_TITLES if all(method in s.examples.saliency for s in shown if s.examples)]
    columns, rows = 1 + len(methods), len(shown)
    figure = Figure(figsize=(1.35 * columns + 0.5, 1.45 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, summary in zip(grid, shown, strict=True):
        examples = summary.examples
        assert examples is not None
        picture(row[0], examples.images[index])
        row[0].set_ylabel(summary.name)
        correct = examples.predicted[index] == examples.labels[index]
        row[0].set_xlabel(examples.predicted[index], fontsize=7, color="#1a7f37" if correct else "#c62828")
        for axes, method in zip(row[1:], methods, strict=True):
            picture(axes, heat(examples.saliency[method][index]), cmap="inferno")
    for axes, title in zip(grid[0], ["image", *(METHOD_TITLES[method] for method in methods)], strict=True):
        axes.set_title(title.replace(" ", "\n"), fontsize=8)
    return figure


def heat(saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale |saliency| to [0, 1]; the largest percent of the pixels is clipped, or one pixel would darken the rest."""
    magnitude = np.abs(saliency)
    top = float(np.percentile(magnitude, 99))
    return np.clip(magnitude / top, 0, 1) if top > 0 else magnitude


def picture(axes: Axes, values: npt.NDArray[np.generic], cmap: str | None = None) -> None:
    axes.imshow(values, cmap=cmap, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def example_count(summaries: Sequence[Summary]) -> int:
    """Return how many example images all variants that have any share."""
    counts = [len(summary.examples.images) for summary in summaries if summary.examples is not None]
    return min(counts, default=0)


def colours(summaries: Sequence[Summary]) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(summaries))]


def below(axes: Axes, title: str | None = None) -> None:
    """Put the legend under the axes, where no curve can run through it."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    options = {"title": title, "title_fontsize": LEGEND_POINTS, "loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    rows = fitted_legend(axes, figure, **options)
    fewest = -(-len(axes.get_legend_handles_labels()[1]) // LEGEND_COLUMNS)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - fewest))


def fitted_legend(owner: Axes | Figure, figure: Figure, **options: Any) -> int:
    """Add a legend in as many columns as fit into the figure's width, for names may be long; return its rows."""
    for columns in range(LEGEND_COLUMNS, 0, -1):
        legend = owner.legend(fontsize=LEGEND_POINTS, ncols=columns, **options)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    return -(-len(legend.get_texts()) // columns)


def panel() -> tuple[Figure, Axes]:
    """Return a figure that is readable on a phone's width."""
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    return figure, figure.subplots()
