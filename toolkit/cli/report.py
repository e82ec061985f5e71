"""``roadworthy report`` and ``roadworthy demo``."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.folders import check_target, new_folder
from toolkit.cli.desktop import DEFAULT_DATA, data_option
from toolkit.cli.options import FOLDER, examples, force_option
from toolkit.cli.progress import bars

PAGE = "report.html"


@click.command(
    epilog=examples(
        "roadworthy report results/ --out report", "roadworthy report results/natural results/bench.json -o report"
    )
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "-o", type=FOLDER, required=True, help=f"Folder for {PAGE}, figures and data.")
@click.option("--title", default="Latency versus interpretability", show_default=True, help="Heading of the page.")
@force_option
def report(results: tuple[Path, ...], out: Path, title: str, force: bool) -> None:
    """Make one HTML page of the results of audits and benchmarks, with figures (PNG, SVG) and data (CSV)."""
    from toolkit.report.page import write_files
    from toolkit.report.results import collect

    check_target(out, marker=PAGE, force=force)
    found = collect(results)
    with new_folder(out, marker=PAGE, force=force) as folder:
        write_files(folder, found.summaries, title, found.notes)
    click.echo(out / PAGE)


@click.command(epilog=examples("roadworthy demo", "roadworthy demo --data gtsrb:PATH --out demo-gtsrb"))
@data_option
@click.option(
    "--out", "-o", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for everything it makes."
)
@click.option("--adversarial", is_flag=True, help="Add a variant trained on PGD attacks (about as long again).")
@click.option(
    "--edge-python", type=click.Path(path_type=Path), help="Python of a device install to run the device's part."
)
@click.option("--seed", default=0, show_default=True, help="Seed of everything.")
@force_option
def demo(spec: str | None, out: Path, adversarial: bool, edge_python: Path | None, seed: int, force: bool) -> None:
    """Do the whole job on a small network: train, prune four ways, export, audit as the vehicle does, report."""
    from toolkit import demo as whole_job

    plan = whole_job.DemoPlan(spec or DEFAULT_DATA, seed=seed, adversarial=adversarial, edge_python=edge_python)
    with bars() as progress:
        page = whole_job.run(plan, out, progress, force=force)
    click.echo(f"report: {page.resolve()}")
