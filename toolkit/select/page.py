"""``select.html``: one file that needs no network, with the recommendation, the figures, and every candidate."""

from __future__ import annotations

import base64
from collections.abc import Callable

import jinja2

from toolkit.report.page import MEDIA_TYPES, encode
from toolkit.select.constraints import CONSTRAINTS
from toolkit.select.figures import all_figures
from toolkit.select.measures import OBJECTIVES
from toolkit.select.outcome import Judged, Outcome, Row

MISSING = "–"


def render(outcome: Outcome, judged: Judged) -> str:
    """Return the page's HTML; the same outcome gives the same text."""
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("toolkit.select", "."), jinja2.PackageLoader("toolkit.report", ".")]
    )
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    pictures = {
        name: f"data:{MEDIA_TYPES['svg']};base64,{base64.b64encode(encode(figure, 'svg')).decode()}"
        for name, figure in all_figures(judged).items()
    }
    return environment.get_template("select.html").render(
        outcome=outcome,
        columns=COLUMNS,
        rows=sorted((row for row in outcome.trials if row.state == "done"), key=_importance),
        failed=[row for row in outcome.trials if row.state == "failed"],
        limits=[(each, getattr(outcome.limits, each.name)) for each in judged.limits.given()],
        titles={each.name: each.title for each in CONSTRAINTS},
        objectives=OBJECTIVES,
        pictures=pictures,
        notes=list(_notes(outcome)),
    )


def _importance(row: Row) -> tuple[bool, bool, bool, float]:
    return not row.recommended, not row.pareto, not row.feasible, row.latency_ms or 0.0


def _column(name: str, write: Callable[[float], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = getattr(row, name)
        return MISSING if value is None else write(value)

    return cell


COLUMNS: dict[str, Callable[[Row], str]] = {
    "latency, ms": _column("latency_ms", "{:.3g}".format),
    "of the unpruned": _column("latency_ratio", "{:.0%}".format),
    "accuracy": _column("accuracy", "{:.2%}".format),
    "drop, points": _column("accuracy_drop", "{:+.2f}".format),
    "Gini": _column("gini", "{:.3f}".format),
    "ROAD MoRF AUC": _column("road_auc", "{:.3f}".format),
    "size, MB": _column("size_mb", "{:.3g}".format),
    "M MACs": _column("macs", lambda value: f"{value / 1e6:.1f}"),
}


def _notes(outcome: Outcome) -> list[tuple[str, str]]:
    about = outcome.search
    width = "" if about.width == 1 else f" of width {about.width:g}"
    begun = "an existing run" if about.origin else f"trained for {about.training['epochs']} epochs"
    unsteady = sum(row.steady is False for row in outcome.trials)
    return [
        ("network", f"{about.architecture}{width} at {about.size} pixels on {about.data}, {begun}, seed {about.seed}"),
        ("accuracy", "of all validation images, by the exported classifier"),
        ("explanations", f"{about.explainer.upper()} by the exported explainer, {about.images} validation images"),
        ("latency", "median of one classification, in alternation with the unpruned network, whose median scales it"),
        ("machine", f"{about.machine}, provider {about.provider}, {_threads(about.threads)}"),
        ("unsteady", f"{unsteady} of {len(outcome.trials)} timings met other load, or clocks that moved"),
        ("ended", outcome.ended),
    ]


def _threads(count: int | None) -> str:
    return "all cores" if count is None else f"{count} thread{'s' if count > 1 else ''}"
