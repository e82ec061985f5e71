"""``roadworthy report`` and ``roadworthy demo``."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.folders import check_target, new_folder
from toolkit.cli.desktop import DEFAULT_DATA, data_option
from toolkit.cli.options import FOLDER, examples, force_option
from toolkit.cli.progress import bars, stages_report

PAGE = "report.html"


@click.command(
    epilog=examples(
        "roadworthy report results/ --out report",
        "roadworthy report results/natural results/bench.json -o report",
        "roadworthy report results/ bundles/ logs/ --out road",
        "roadworthy report 'logs/**/*.parquet' --out road",
    )
)
@click.argument("sources", metavar="RESULTS|LOGS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "-o", type=FOLDER, required=True, help=f"Folder for {PAGE}, figures and data.")
@click.option("--title", default="Latency versus interpretability", show_default=True, help="Heading of the page.")
@force_option
def report(sources: tuple[Path, ...], out: Path, title: str, force: bool) -> None:
    """Make one HTML page of results and audit logs, with figures (PNG, SVG) and data (CSV).

    Results are those of audit and bench; logs are those of vehicles, as they are or exported to Parquet, of any number.
    Folders are searched. A log that does not verify is left out, and the page says so.
    """
    from toolkit.report.fleet_summary import read_fleet
    from toolkit.report.logs import expand, split
    from toolkit.report.page import write_files
    from toolkit.report.results import collect

    check_target(out, marker=PAGE, force=force)
    logs, others = split(expand(sources))
    found = collect(others, required=not logs)
    fleet = None
    if logs:
        with bars() as progress:
            fleet = read_fleet(logs, found.summaries, others, stages_report(progress))
        for problem in fleet.problems:
            click.echo(f"roadworthy: warning: {problem.name} is left out: {problem.reason}", err=True)
    with new_folder(out, marker=PAGE, force=force) as folder:
        write_files(folder, found.summaries, title, found.notes, fleet)
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
