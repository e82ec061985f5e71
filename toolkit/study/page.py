"""What a study leaves to read: tables, claims and figures as files, and one HTML page over all of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path

import jinja2

from edge_runtime.errors import RunError
from edge_runtime.folders import new_file
from toolkit.report.page import DATA, FIGURES, MEDIA_TYPES, PAGE, encode
from toolkit.report.tables import csv_text
from toolkit.study import claims, tables
from toolkit.study.cells import Cell
from toolkit.study.claims import Finding
from toolkit.study.engine import Workplace
from toolkit.study.figures import ROAD, SALIENCY, all_figures
from toolkit.study.grid import Grid
from toolkit.study.results import CellResult, read_examples
from toolkit.study.schema import Study
from toolkit.study.tables import Table

# Under which of the paper's figures a subject's curves and saliency grids belong.
PUBLISHED = {
    "lisa-vgg": "Figures 7 to 12 (ROAD)",
    "gtsrb-vgg": "Figures 13 to 15 (ROAD)",
    "lisa-resnet": "Figures 19 to 21 (ROAD)",
}


def write_all(
    study: Study, results: Iterable[CellResult], failures: Mapping[str, str], paths: Mapping[str, Path], out: Path
) -> Path:
    """Write every table, figure and page into ``out`` and return the page's path.

    ``failures`` are reasons, ``paths`` result files, both by cell name. The same results give the same bytes. Raises
    RunError where the file system fails.
    """
    kept = sorted(results, key=lambda each: each.name)
    grid = Grid.of(study, kept)
    made, findings = tables.all_tables(grid), claims.all_findings(grid)
    texts = {
        "tables.md": tables.markdown(made, study.title),
        "tables.csv": tables.csv(made),
        "claims.md": claims.markdown(findings, study.title),
        "claims.csv": claims.csv(findings),
        f"{DATA}/road.csv": road_csv(kept),
    }
    examples = {each.name: read_examples(paths[each.name]) for each in kept}
    pictures = {}
    contents = {name: text.encode() for name, text in texts.items()}
    for name, figure in all_figures(grid, examples).items():
        encoded = {kind: encode(figure, kind) for kind in MEDIA_TYPES}
        contents |= {f"{FIGURES}/{name}.{kind}": content for kind, content in encoded.items()}
        # A saliency grid is pixels anyway; as SVG it would be the same pixels, wrapped.
        kind = "png" if name.startswith(SALIENCY) else "svg"
        pictures[name] = f"data:{MEDIA_TYPES[kind]};base64,{base64.b64encode(encoded[kind]).decode()}"
    contents[PAGE] = render(study, made, findings, pictures, failures, kept).encode()
    for name, content in contents.items():
        _write(out / name, content)
    return out / PAGE


def render(
    study: Study,
    made: list[Table],
    findings: list[Finding],
    pictures: Mapping[str, str],
    failures: Mapping[str, str],
    results: list[CellResult],
) -> str:
    """Return the page's HTML; ``pictures`` maps figure names to data URIs."""
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("toolkit.study", "."), jinja2.PackageLoader("toolkit.report", ".")]
    )
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("study.html").render(
        study=study,
        tables=made,
        claim_header=claims.HEADER,
        claim_rows=[(finding.verdict, claims.row(finding)) for finding in findings],
        claims=claims.CLAIMS,
        claim_notes=list(claims.explanation()),
        road=[(name, uri) for name, uri in pictures.items() if name.startswith(ROAD)],
        saliency=[(name, uri) for name, uri in pictures.items() if name.startswith(SALIENCY)],
        published=[PUBLISHED[subject.compare] for subject in study.subjects if subject.compare],
        failures=failures,
        notes=notes(study, results),
    )


def notes(study: Study, results: list[CellResult]) -> list[tuple[str, str]]:
    """Return pairs of a heading and a text on how the figures were measured."""
    found = [
        ("preset", study.preset),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("networks", str(len(results))),
        ("devices", ", ".join(sorted({result.device for result in results}))),
    ]
    for subject in study.subjects:
        width = "" if subject.width == 1 else f" of width {subject.width:g}"
        text = f"{subject.architecture}{width} at {subject.size} pixels, split {subject.split}"
        found.append((subject.name, text))
    for name, overrides in (("training", study.training), ("fine-tuning", study.fine_tuning)):
        if overrides.given():
            found.append((f"{name}, not as in the preset", _options(overrides.given())))
    versions = {f"{name} {version}" for result in results for name, version in result.software.items()}
    found.append(("software", ", ".join(sorted(versions))))
    found += [(result.name, "; ".join(result.notes)) for result in results if result.notes]
    return found


def road_csv(results: Iterable[CellResult]) -> str:
    """Return the curves of every network: accuracy at each percentage."""
    header = ["cell", "explainer", "order", "removed_percent", "accuracy", "images"]
    return csv_text(
        header,
        (
            [result.name, method, order, level, accuracy, len(explained.road.images)]
            for result in results
            for method, explained in result.explainers.items()
            if explained.road is not None
            for order in ("morf", "lerf")
            for level, accuracy in zip(
                explained.road.percentages, explained.road.correct(order).mean(axis=0).tolist(), strict=True
            )
        ),
    )


def known_results(cells: Iterable[Cell], place: Workplace) -> list[CellResult]:
    """Return the results of those ``cells`` that are done."""
    found = (place.known(cell) for cell in cells)
    return [each for each in found if each is not None]


def _options(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror}; choose another folder") from error
    with new_file(path, force=True, error=RunError) as temporary:
        temporary.write_bytes(content)
