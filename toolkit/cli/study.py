"""``roadworthy study``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.desktop import DATA_FORMS
from toolkit.cli.options import FOLDER, examples
from toolkit.cli.progress import bars, reading_report

if TYPE_CHECKING:
    from toolkit.data import Dataset
    from toolkit.study.cells import Cell
    from toolkit.study.schema import Study

FAILED = 3  # the exit code where cells failed


@click.command(
    epilog=examples(
        "roadworthy study rendered --out results/rendered",
        "roadworthy study cpu --data gtsrb:PATH --data lisa:PATH --dry-run",
        "roadworthy study lisa-vgg --data lisa:PATH --out lisa --only 'lisa-vgg/natural/*'",
        "roadworthy study my-study.toml --out results/mine",
        "roadworthy study lisa-vgg --data lisa:PATH --out /shared/lisa --engine ray --address HOST:6379",
    )
)
@click.argument("study")
@click.option("--out", "-o", type=FOLDER, default=Path("study"), show_default=True, help="Folder to work in.")
@click.option(
    "--data", "-d", "data", multiple=True, help=f"Where a data set is, for the study's own path: {DATA_FORMS}."
)
@click.option("--only", multiple=True, help="Cells to make, by pattern: 'lisa-vgg/l1-*/s0'. Parents come along.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what it will cost; make nothing.")
@click.option("--tensorboard", "events", is_flag=True, help="Also write the trainings for TensorBoard.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=int, help="CPU threads of a cell.  [default: all cores]")
@click.option("--engine", default="local", show_default=True, help="Where cells are made: local or ray, a cluster.")
@click.option("--address", help="The Ray cluster: HOST:PORT, ray://HOST:PORT or auto.  [default: $RAY_ADDRESS]")
@click.option("--cells-per-gpu", default=1, show_default=True, help="Of a cluster: how many cells share a GPU.")
def study(study: str, out: Path, data: tuple[str, ...], only: tuple[str, ...], **options: Any) -> None:
    """Run a grid of networks and seeds, and lay the tables beside the paper's.

    STUDY is a TOML file, or the name of one that comes along: lisa-vgg, gtsrb-vgg, lisa-resnet (full size), cpu,
    rendered. What is done is kept: after any interruption the same command goes on.
    """
    import torch

    from toolkit import distributed, runs
    from toolkit.study import cells, cost, engine, engines, page, schema, tensorboard
    from toolkit.study.view import watching

    distributed.refuse("study")
    events: bool = options["events"]
    if events:
        tensorboard.require()
    workers = engines.Workers(options["address"], options["threads"], options["cells_per_gpu"])
    wanted = schema.read_study(schema.find(study), data)
    run_cells = engines.chosen(options["engine"], workers)
    if workers.threads is not None:
        torch.set_num_threads(workers.threads)
    datasets = load(wanted)
    everything = cells.plan(wanted, datasets, options["device"])
    chosen = cells.select(everything, only)
    place = engine.Workplace(out)
    states = {cell.name: place.state(cell) for cell in chosen}
    # How fast a cluster's machines are is not known here: the estimate is for this one.
    timed = chosen if options["engine"] == "local" else cells.select(cells.plan(wanted, datasets), only)
    estimates = cost.estimates(wanted, timed, datasets, place)
    if options["dry_run"]:
        show_plan(chosen, states, estimates)
        return
    with watching(chosen, states, estimates) as view, engine.resumable(place):
        outcome = run_cells(wanted, chosen, datasets, out, view, workers)
    for name, reason in outcome.failures.items():
        click.echo(f"roadworthy: failed: {name}: {reason}", err=True)
    with engine.resumable(place):
        for cell in chosen if events else ():
            if history := runs.load_history(place.run(cell)):  # what is only pruned has none
                tensorboard.write_events(out / "tensorboard" / cell.name, history)
        # Also what an earlier start with another --only has made.
        results = page.known_results(everything, place)
        paths = {cell.name: place.result(cell) for cell in everything}
        report = page.write_all(wanted, results, outcome.failures, paths, out)
    click.echo(f"{len(outcome.results)} of {len(chosen)} cells done; report: {report}")
    if outcome.failures:
        raise click.exceptions.Exit(FAILED)


def load(study: Study) -> dict[str, Dataset]:
    """Load the data set of every subject, each once; raises DataError for one without test images."""
    from toolkit import data
    from toolkit.study.measure import require_test_images

    found: dict[tuple[str, str, int], Dataset] = {}
    with bars() as progress:
        for subject in study.subjects:
            how = (subject.dataset, subject.split, subject.size)
            if how not in found:
                report = reading_report(progress, f"reading {subject.dataset}")
                found[how] = data.load(
                    subject.dataset, size=subject.size, split=subject.split, seed=study.split_seed, progress=report
                )
                require_test_images(found[how])
    for dataset in found.values():
        click.echo(dataset.describe(), err=True)
    return {each.name: found[each.dataset, each.split, each.size] for each in study.subjects}


def show_plan(cells: list[Cell], states: dict[str, str], estimates: dict[str, float]) -> None:
    """Print every cell with its state, its parent and its estimated time, and the sum."""
    from toolkit.study.view import duration

    width = max(len(cell.name) for cell in cells)
    for cell in cells:
        parent = "" if cell.parent is None else f"from {cell.parent.name}"
        click.echo(
            f"{cell.name:{width}}  {states[cell.name]:7}  {duration(estimates[cell.name]):>12}  {parent}".rstrip()
        )
    done = sum(state == "done" for state in states.values())
    click.echo(f"{len(cells)} cells, {done} done; about {duration(sum(estimates.values()))} to go")
