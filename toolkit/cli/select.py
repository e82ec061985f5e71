"""``roadworthy select``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edge_runtime.errors import InputError, unknown
from edge_runtime.path import METHODS as EXPLAINERS
from edge_runtime.provider_choice import AUTO
from edge_runtime.sessions import PROVIDERS
from toolkit.cli.desktop import (
    DEFAULT_ARCHITECTURE,
    DEFAULT_DATA,
    data_option,
    load,
    recipe_options,
    split_options,
    training_config,
)
from toolkit.cli.options import FOLDER, examples, json_option, runtime_options
from toolkit.data import DEFAULT_SIZE

if TYPE_CHECKING:
    from toolkit.data import Dataset
    from toolkit.select.constraints import Limits
    from toolkit.select.outcome import Outcome
    from toolkit.select.search import Search
    from toolkit.select.space import Space
    from toolkit.select.store import Identity, Store
    from toolkit.select.trial import Setup

INFEASIBLE = 4  # the exit code where no candidate keeps to all limits
MIN_SECONDS = 0.01
# What a run that is there already has decided.
OF_TRAINING = ("architecture", "width", "size", "seed", "epochs")
DEFAULTS = {"architecture": DEFAULT_ARCHITECTURE, "width": 1.0, "size": DEFAULT_SIZE, "seed": 0, "epochs": None}


@click.command(
    epilog=examples(
        "roadworthy select --data gtsrb:PATH --max-latency-ms 0.5 --max-accuracy-drop 1 --out select",
        "roadworthy select --data gtsrb:PATH --from runs/natural --min-gini 0.55 --max-road-auc 0.4 --trials 30",
        "roadworthy select --architecture vgg16 --recipe paper --method channel --timing post --max-size-mb 10",
    )
)
@click.option("--max-latency-ms", type=float, help="Median (p50) latency of one classification on this machine.")
@click.option("--max-accuracy-drop", type=float, help="Percentage points against the unpruned network.")
@click.option("--min-gini", type=float, help="Sparsity of the explanations, 0..1.")
@click.option("--max-road-auc", type=float, help="Area under the MoRF curve, 0..1: the lower, the more faithful.")
@click.option("--max-size-mb", type=float, help="Megabytes of the classifier.")
@click.option("--trials", default=20, show_default=True, help="Candidates to measure, beside the unpruned network.")
@click.option("--timeout", type=float, help="Begin no other candidate after so many seconds.")
@click.option(
    "--from", "origin", type=FOLDER, help="Begin with this run instead of training; only post-training pruning."
)
@data_option
@split_options
@click.option("--size", type=int, help=f"Side of the square images, in pixels.  [default: {DEFAULT_SIZE}]")
@click.option("--architecture", "-a", help=f"As in `train`.  [default: {DEFAULT_ARCHITECTURE}]")
@click.option("--width", type=float, help="Factor on the channel counts.  [default: 1]")
@recipe_options
@click.option("--seed", type=int, help="Seed of weights, order, augmentation and proposals.  [default: 0]")
@click.option("--method", "methods", multiple=True, help="Only these prunings; may be repeated.")
@click.option("--timing", "timings", multiple=True, help="Only pre or post: pruned before or after training.")
@click.option(
    "--fine-tune", "fine_tune", multiple=True, type=int, help="Epochs to choose from.  [default: 0, the recipe's]"
)
@click.option("--min-percent", default=10, show_default=True, help="Smallest share to prune.")
@click.option("--max-percent", default=90, show_default=True, help="Largest share to prune.")
@click.option(
    "--explainer", default="vg", show_default=True, help=f"Whose Gini and ROAD count: {', '.join(EXPLAINERS)}."
)
@click.option("--images", default=100, show_default=True, help="Validation images of Gini and ROAD.")
@click.option("--seconds", default=2.0, show_default=True, help="Length of each benchmark, per bundle.")
@runtime_options
@click.option("--out", "-o", type=FOLDER, default=Path("select"), show_default=True, help="Folder to work in.")
@json_option
def select(out: Path, as_json: bool, **options: Any) -> None:
    """Choose how to prune a network so that it keeps to limits on latency, accuracy and explanations.

    Methods, shares, timings and fine-tuning are searched; every candidate is exported and measured on this machine, on
    validation images. The recommended bundle, and only that, is measured on test images. After any interruption the
    same command goes on; with other limits it judges anew what is measured.
    """
    from toolkit import workplace
    from toolkit.select import search
    from toolkit.select.store import Store

    check(options)
    limits, store = limits_of(options), Store(out)
    store.check()
    decided(options)
    space = space_of(options)
    dataset = load(options["spec"] or DEFAULT_DATA, options["size"], options)
    setup = setup_of(options, dataset)
    wanted = search.Search(identity_of(options, setup), space, limits, options["trials"], options["timeout"])
    busy = search.SearchStoppedError(f"a search is running in {out} already; wait for it or choose another --out")
    with workplace.alone(out, busy), search.resumable(store):
        outcome = run(wanted, setup, store, dataset)
    show(outcome, out, as_json)


def run(wanted: Search, setup: Setup, store: Store, dataset: Dataset) -> Outcome:
    """Search, export and test the recommended network, and write everything."""
    from toolkit.select import outcome, page, search
    from toolkit.select.view import watching

    with watching(wanted.limits, wanted.trials + 1) as view:
        records, ended = search.run_search(wanted, setup, store, view)
        judged = outcome.judge(search.confirm(wanted, setup, store, view, records), wanted.limits)
        tested = outcome.recommended_bundle(judged, store, setup, dataset, view.step)
    found = outcome.assemble(judged, wanted.identity, store, ended, tested)
    outcome.write_outcome(found, page.render(found, judged), store)
    return found


def show(outcome: Outcome, out: Path, as_json: bool) -> None:
    """Print the recommendation with its reasons, or say what binds and exit with INFEASIBLE."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(outcome), indent=2))
    else:
        done = [row for row in outcome.trials if row.state == "done"]
        failed = f", {len(outcome.trials) - len(done)} failed" if len(done) < len(outcome.trials) else ""
        kept = sum(row.feasible for row in done)
        click.echo(f"{out / 'select.html'}: {len(done)} candidates measured{failed}, {kept} within the limits")
    if outcome.recommended is None:
        click.echo("roadworthy: no candidate keeps to all limits", err=True)
        for line in outcome.reason:
            click.echo(f"  {line}", err=True)
        raise click.exceptions.Exit(INFEASIBLE)
    if not as_json:
        click.echo(f"{out / 'recommended'}:")
        for line in outcome.reason:
            click.echo(f"  {line}")


def check(options: dict[str, Any]) -> None:
    """Raise InputError for what cannot be, before anything is read."""
    if options["explainer"] not in EXPLAINERS:
        raise unknown("explainer", options["explainer"], EXPLAINERS)
    if options["provider"] not in PROVIDERS:
        hint = "; candidates must run alike, so auto is no choice" if options["provider"] == AUTO else ""
        raise InputError(f"{unknown('provider', options['provider'], PROVIDERS)}{hint}")
    for name, least in (("trials", 1), ("images", 1), ("seconds", MIN_SECONDS), ("timeout", 0)):
        if options[name] is not None and not options[name] >= least:
            raise InputError(f"--{name} {options[name]:g} is too small; give at least {least:g}")


def limits_of(options: dict[str, Any]) -> Limits:
    from toolkit.select.constraints import CONSTRAINTS, Limits

    return Limits(**{each.name: options[each.name] for each in CONSTRAINTS})


def decided(options: dict[str, Any]) -> None:
    """Fill in, in place, what the run of ``--from`` or the defaults decide; raises InputError for contradictions."""
    from toolkit import pipeline, runs

    if options["origin"] is None:
        for name in OF_TRAINING:
            options[name] = DEFAULTS[name] if options[name] is None else options[name]
        pipeline.check_architecture(options["architecture"])
        return
    for name in OF_TRAINING:
        if options[name] is not None:
            raise InputError(f"--{name} does not go with --from, whose run has decided it; drop one of them")
    if "pre" in options["timings"]:
        raise InputError("--timing pre does not go with --from: the run is trained already; drop one of them")
    variant = runs.load_info(options["origin"]).variant
    if variant.pruning != "none":
        raise InputError(
            f"{options['origin']} is pruned already ({variant.label}); begin with the run that it came from"
        )
    options |= {name: getattr(variant, name) for name in ("architecture", "width", "seed")}
    options |= {"size": variant.input_size, "timings": ("post",)}


def space_of(options: dict[str, Any]) -> Space:
    """Return the candidates that the options leave."""
    from toolkit.select.space import METHODS, TIMINGS, Space

    tuning = training_config(options | {"epochs": None}, options["architecture"], spec_of(options), fine_tune=True)
    return Space(
        methods=tuple(dict.fromkeys(options["methods"])) or tuple(METHODS),
        timings=tuple(dict.fromkeys(options["timings"])) or TIMINGS,
        fine_tune=tuple(sorted(set(options["fine_tune"]))) or (0, tuning.epochs),
        low=options["min_percent"],
        high=options["max_percent"],
    )


def setup_of(options: dict[str, Any], dataset: Dataset) -> Setup:
    from toolkit import pipeline, runs
    from toolkit.select.trial import Measuring, Setup, without_test

    if options["origin"] is not None:
        pipeline.check_labels(runs.load_info(options["origin"]), dataset)
    return Setup(
        dataset=without_test(dataset),
        architecture=options["architecture"],
        width=options["width"],
        training=training_config(options, options["architecture"], spec_of(options)),
        fine_tuning=training_config(
            options | {"epochs": None}, options["architecture"], spec_of(options), fine_tune=True
        ),
        origin=options["origin"],
        measuring=Measuring(
            **{name: options[name] for name in ("explainer", "images", "seconds", "provider", "threads")}
        ),
    )


def spec_of(options: dict[str, Any]) -> str:
    return options["spec"] or DEFAULT_DATA


def identity_of(options: dict[str, Any], setup: Setup) -> Identity:
    """Return what must stay the same in the folder."""
    from edge_runtime.device_identity import device_identity
    from toolkit.select.store import Identity, sha256_of

    device, measuring = device_identity(), setup.measuring
    # What it trains on changes the last bits only; how long it is fine-tuned is chosen.
    training, fine_tuning = (without(asdict(each), "device", "seed") for each in (setup.training, setup.fine_tuning))
    return Identity(
        data=setup.dataset.name,
        data_digest=setup.dataset.digest,
        normalisation=(setup.dataset.mean, setup.dataset.std),
        architecture=setup.architecture,
        width=setup.width,
        size=options["size"],
        seed=options["seed"],
        training={} if options["origin"] else training,
        fine_tuning=without(fine_tuning, "epochs"),
        origin=sha256_of(options["origin"]) if options["origin"] else None,
        explainer=measuring.explainer,
        images=measuring.images,
        provider=measuring.provider,
        threads=measuring.threads,
        machine=", ".join(filter(None, (device.board, device.cpu_model, f"{device.cores} cores", device.gpu))),
    )


def without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
