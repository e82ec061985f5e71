"""The study's figures: ROAD curves with bands, and saliency grids."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_runtime.metrics import RoadCurve
from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.figures import COLOURS, STYLE, below, example_count, panel, saliency_grid
from toolkit.report.summary import Examples, Summary
from toolkit.study.grid import BySeed, Grid
from toolkit.study.schema import TIMINGS, Subject

ROAD, SALIENCY = "road_", "saliency_"
Shown = Mapping[str, Examples | None]  # examples by cell name


def all_figures(grid: Grid, examples: Shown) -> dict[str, Figure]:
    """Return every figure that the results allow, by file name."""
    figures = {}
    with mpl.rc_context(STYLE):
        for subject in grid.study.subjects:
            for timing in grid.timings() or ["none"]:
                variants = variants_of(grid, subject, timing)
                for method in grid.study.evaluation.explainers:
                    figure = road_figure(variants, method, f"{subject.name}, {TIMINGS.get(timing, 'not pruned')}")
                    if figure is not None:
                        figures[f"{ROAD}{subject.name}_{timing}_{method}"] = figure
                figures |= saliency_figures(variants, examples, f"{SALIENCY}{subject.name}_{timing}")
    return figures


def variants_of(grid: Grid, subject: Subject, timing: str) -> dict[str, BySeed]:
    """Return the results of every strategy that has some: the unpruned ones, and those pruned at ``timing``."""
    found = {each.name: grid.get(subject, each, timing) for each in grid.study.strategies}
    return {name: results for name, results in found.items() if results}


def road_figure(variants: Mapping[str, BySeed], method: str, title: str) -> Figure | None:
    """Draw the curves of one explainer, MoRF solid with its band, LeRF dashed; None where no network has one."""
    figure, axes = panel()
    drawn = 0
    for (name, results), colour in zip(variants.items(), _colours(len(variants)), strict=True):
        for order, line, width in (("morf", "-", 1.6), ("lerf", "--", 1.0)):
            found = curve(results, method, order)
            if found is None:
                continue
            drawn += 1
            label = name if order == "morf" else None
            axes.plot(found.percentages, found.accuracy, line, color=colour, linewidth=width, label=label)
            low, high = found.accuracy_interval()
            axes.fill_between(found.percentages, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="pixels removed (%)", ylabel="accuracy", xlim=(0, 100), ylim=(-0.02, 1.02))
    axes.set_title(f"{METHOD_TITLES[method]}\n{title}", fontsize=9)
    if not drawn:
        return None
    below(axes, title="MoRF solid, LeRF dashed")
    return figure


def curve(results: BySeed, method: str, order: str) -> RoadCurve | None:
    """Return one ROAD curve over the images of all seeds together."""
    roads = [result.explainers[method].road for result in results.values()]
    known = [road for road in roads if road is not None]
    if not known:
        return None
    correct: NDArray[np.bool_] = np.concatenate([road.correct(order) for road in known]) > 0.5
    unknown = np.full(correct.shape, np.nan)  # probabilities are not kept
    return RoadCurve(percentages=np.asarray(known[0].percentages), correct=correct, probability=unknown)


def saliency_figures(variants: Mapping[str, BySeed], examples: Shown, name: str) -> dict[str, Figure]:
    """Return one grid for each shown image, of the first seed's networks."""
    summaries = []
    for label, results in variants.items():
        first = results[min(results)]
        shown = examples.get(first.name)
        if shown is not None:
            summaries.append(Summary(name=label, digest=first.key, examples=shown))
    return {f"{name}_{index + 1}": saliency_grid(summaries, index) for index in range(example_count(summaries))}


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
