"""``report.html``: one file that needs no network, with its figures as PNG and SVG and its data as CSV beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from toolkit.report import fleet_tables
from toolkit.report.figures import STYLE, all_figures
from toolkit.report.fleet_figures import fleet_figures
from toolkit.report.fleet_summary import Fleet
from toolkit.report.fleet_tables import fleet_files
from toolkit.report.summary import Summary
from toolkit.report.tables import COLUMNS, data_files, groups

PAGE = "report.html"
FIGURES = "figures"
DATA = "data"
# Which figures stand under which heading; every other figure would be an oversight, and render() says so.
SECTIONS: dict[str, tuple[str, ...]] = {
    "tradeoff": ("latency_",),
    "road": ("road_",),
    "gini": ("gini",),
    "saliency": ("saliency_",),
    "fleet": ("fleet_",),
}
MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


def write_files(
    folder: Path,
    summaries: Sequence[Summary],
    title: str,
    notes: Sequence[tuple[str, str]] = (),
    fleet: Fleet | None = None,
) -> Path:
    """Write the page, ``figures/`` and ``data/`` into ``folder`` and return the page's path.

    ``notes`` are pairs of a heading and a text on how the figures were measured, ``fleet`` is what the logs say.
    """
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    (folder / DATA).mkdir(exist_ok=True)
    files = (data_files(summaries) if summaries else {}) | (fleet_files(fleet) if fleet else {})
    for name, text in files.items():
        (folder / DATA / name).write_text(text, encoding="utf-8")
    pictures = {}
    figures = all_figures(summaries) | (fleet_figures(fleet) if fleet else {})
    for name, figure in figures.items():
        encoded = {kind: encode(figure, kind) for kind in MEDIA_TYPES}
        for kind, content in encoded.items():
            (folder / FIGURES / f"{name}.{kind}").write_bytes(content)
        # A saliency grid is pixels anyway; as SVG it would be the same pixels, wrapped.
        kind = "png" if name.startswith("saliency_") else "svg"
        pictures[name] = f"data:{MEDIA_TYPES[kind]};base64,{base64.b64encode(encoded[kind]).decode()}"
    page = folder / PAGE
    page.write_text(render(summaries, title, notes, pictures, fleet), encoding="utf-8")
    return page


def encode(figure: Figure, kind: str) -> bytes:
    """Return the figure as ``svg`` or ``png``; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def render(
    summaries: Sequence[Summary],
    title: str,
    notes: Sequence[tuple[str, str]],
    pictures: dict[str, str],
    fleet: Fleet | None = None,
) -> str:
    """Return the page's HTML; ``pictures`` maps figure names to data URIs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toolkit.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    sections = {
        section: [(name, uri) for name, uri in pictures.items() if name.startswith(prefixes)]
        for section, prefixes in SECTIONS.items()
    }
    return environment.get_template("template.html").render(
        title=title,
        summaries=summaries,
        columns=COLUMNS,
        groups=groups(COLUMNS),
        sections=sections,
        notes=notes,
        fleet=fleet,
        fleet_columns=fleet_tables.COLUMNS,
        fleet_groups=groups(fleet_tables.COLUMNS),
        fleet_rows=fleet_tables.slowest_first(fleet) if fleet else [],
        fleet_stages=fleet_tables.stages(fleet) if fleet else [],
        stage_cell=fleet_tables.stage_cell,
        fleet_events=fleet_tables.event_rows(list(fleet.events)) if fleet else [],
    )
