"""Commands that need PyTorch: train, prune, evaluate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from edge_runtime import variant as names
from edge_runtime.errors import InputError
from toolkit.cli.options import FOLDER, examples, force_option, json_option, stack
from toolkit.cli.progress import bars, first_process, reading_report, together, training_report
from toolkit.data import DATASETS, DEFAULT_SIZE, DEFAULT_SPLIT, SPLITS

if TYPE_CHECKING:
    from toolkit.adversarial import PgdConfig
    from toolkit.data import Dataset
    from toolkit.pruning import Pruning
    from toolkit.recipes import TrainConfig

DEFAULT_DATA = "rendered"
DEFAULT_ARCHITECTURE = "vgg_small"
# The study's recipes take hours on a CPU, so they are asked for by name.
DEFAULT_RECIPE = "fast"
DEFAULT_ATTACK = "fast"
DEFAULT_TEST_ATTACK = "pgd-20"
ATTACKS = "The attack: fast, pgd-20, paper or authors-code."
PRUNING_METHODS = [name for name in get_args(names.Pruning) if name != "none"]
PLAIN = {field.name: field.default for field in msgspec.structs.fields(names.Variant)}
DATA_FORMS = ", ".join(f"{name}:PATH" if kind.needs_path else name for name, kind in DATASETS.items())

data_option = click.option("--data", "-d", "spec", help=f"Data set: {DATA_FORMS}.  [default: {DEFAULT_DATA}]")
split_options = stack(
    click.option("--split", default=DEFAULT_SPLIT, show_default=True, help=f"How to divide it: {', '.join(SPLITS)}."),
    click.option("--data-seed", default=0, show_default=True, help="Seed of the split and of the rendered signs."),
)
recipe_options = stack(
    click.option(
        "--recipe", default=DEFAULT_RECIPE, show_default=True, help="How to train: fast, paper or authors-code."
    ),
    click.option("--epochs", type=int, help="Instead of the recipe's."),
    click.option("--batch", type=int, help="Images of one step, instead of the recipe's."),
    click.option("--learning-rate", type=float, help="Instead of the recipe's."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto."),
    click.option("--amp/--no-amp", default=None, help="Compute in bfloat16 where that is safe.  [default: on CUDA]"),
    click.option(
        "--compile/--no-compile", default=None, help="Compile the network.  [default: for long trainings on CUDA]"
    ),
)
channel_options = stack(
    click.option("--amount", type=float, help="Share to prune, 0..1.  [default: the paper's]"),
    click.option(
        "--importance",
        default=PLAIN["importance"],
        show_default=True,
        help=f"Which channels count least, by: {', '.join(get_args(names.Importance))}.",
    ),
    click.option(
        "--scope",
        default=PLAIN["scope"],
        show_default=True,
        help="uniform: every layer gives the same share of its channels; global: all channels compete.",
    ),
    click.option(
        "--target",
        default=PLAIN["target"],
        show_default=True,
        help=f"What --amount is a share of: {', '.join(get_args(names.Target))} (measured here).",
    ),
    click.option(
        "--round-to", default=PLAIN["round_to"], show_default=True, help="Channel counts stay multiples of this."
    ),
)
out_option = click.option("--out", "-o", type=FOLDER, required=True, help="Run folder to write.")


@click.command(
    epilog=examples(
        "roadworthy train --out runs/natural",
        "roadworthy train --data gtsrb:PATH --architecture vgg16 --recipe paper --out runs/vgg16",
        "roadworthy train --out runs/robust --adversarial 0.01",
        "roadworthy train --out runs/natural --resume",
        "torchrun --nproc-per-node 4 -m toolkit.cli train --data gtsrb:PATH --out runs/natural",
    )
)
@data_option
@split_options
@click.option("--size", default=DEFAULT_SIZE, show_default=True, help="Side of the square images, in pixels.")
@click.option(
    "--architecture",
    "-a",
    default=DEFAULT_ARCHITECTURE,
    show_default=True,
    help="vgg16, vgg16_bn, vgg_small, resnet18, or any torchvision classifier.",
)
@click.option("--width", default=1.0, show_default=True, help="Factor on the channel counts.")
@recipe_options
@click.option("--seed", default=0, show_default=True, help="Seed of weights, order and augmentation.")
@click.option("--adversarial", "eps", type=float, help="Train on PGD attacks of this radius (pixel scale 0..1).")
@click.option("--attack", default=DEFAULT_ATTACK, show_default=True, help=ATTACKS)
@click.option("--prune", "method", help=f"Prune the initial weights first: {', '.join(PRUNING_METHODS)}.")
@channel_options
@out_option
@click.option(
    "--resume", is_flag=True, help="Continue the interrupted training of --out with the options it began with."
)
@force_option
@together
def train(out: Path, resume: bool, force: bool, **options: Any) -> None:
    """Train a classifier into a run folder; a checkpoint is kept after every epoch."""
    from toolkit import pipeline, training

    if resume:
        plan = training.pending(out)
        dataset = load(options["spec"] or plan.dataset_spec, plan.info.variant.input_size, options)
        with bars() as progress:
            trained = training.resume(out, dataset, progress=training_report(progress, out.name))
    else:
        # What can be wrong is found before the data are read, which may take minutes.
        training.check_output(out, force=force)
        spec = options["spec"] or DEFAULT_DATA
        config = training_config(options, options["architecture"], spec)
        prune_first = pruning_settings(options) if options["method"] else None
        pipeline.check_architecture(options["architecture"])
        dataset = load(spec, options["size"], options)
        with bars() as progress:
            trained = pipeline.train(
                dataset,
                out,
                options["architecture"],
                config,
                width=options["width"],
                prune=prune_first,
                force=force,
                progress=training_report(progress, out.name),
            )
    accuracy = trained.history[-1]["validation_accuracy"]
    if first_process():
        click.echo(out if accuracy is None else f"{out}: {accuracy:.2%} of the validation images")


@click.command(
    epilog=examples(
        "roadworthy prune runs/natural --method channel --amount 0.5 --out runs/channel",
        "roadworthy prune runs/natural --method l1 --fine-tune 0 --out runs/l1",
        "roadworthy prune runs/natural --method channel --target latency --amount 0.2 --out runs/faster",
        "roadworthy prune runs/robust --method channel --adversarial 0.01 --out runs/robust-channel",
    )
)
@click.argument("run", type=FOLDER)
@click.option("--method", "-m", required=True, help=f"One of: {', '.join(PRUNING_METHODS)}.")
@channel_options
@click.option(
    "--steps", default=PLAIN["steps"], show_default=True, help="Prune so many times, and fine-tune after each."
)
@click.option("--fine-tune", type=int, help="Epochs of fine-tuning; 0 for none.  [default: the recipe's]")
@click.option("--adversarial", "eps", type=float, help="Fine-tune on PGD attacks of this radius (pixel scale 0..1).")
@click.option("--attack", default=DEFAULT_ATTACK, show_default=True, help=ATTACKS)
@data_option
@split_options
@recipe_options
@out_option
@force_option
@together
def prune(run: Path, fine_tune: int | None, out: Path, force: bool, **options: Any) -> None:
    """Prune a trained run into a new one: channel removes channels, the other methods zero weights.

    The options from --importance to --round-to are for channel. With --steps an interrupted command goes on when it is
    given again.
    """
    from toolkit import distributed, pipeline, pruning, runs, training

    training.check_output(out, force=force)
    variant = runs.load_info(run).variant
    how = pruning_settings(options)
    if fine_tune == 0 or how.steps > 1 or how.target == "latency":
        distributed.refuse("prune with --fine-tune 0, --steps or --target latency")
    if fine_tune == 0:
        if options["eps"] is not None:
            raise InputError("--adversarial needs fine-tuning, which --fine-tune 0 leaves out; drop one of them")
        needed = how.importance in pruning.GRADIENTS
        examples = load(options["spec"] or DEFAULT_DATA, variant.input_size, options) if needed else None
        info = pipeline.prune(run, out, how, dataset=examples, force=force)
    else:
        given = options | {"epochs": fine_tune or options["epochs"], "seed": variant.seed}
        config = training_config(given, variant.architecture, variant.dataset, fine_tune=True)
        dataset = load(options["spec"] or DEFAULT_DATA, variant.input_size, options)
        with bars() as progress:
            report = training_report(progress, out.name)
            info = pipeline.prune(run, out, how, dataset=dataset, fine_tune=config, force=force, progress=report)
    gone = ", ".join(f"{share:.1%} of {what}" for what, share in info.removed.items())
    if first_process():
        click.echo(f"{out}: {info.variant.slug}" + (f" without {gone}" if gone else ""))


@click.command(
    epilog=examples(
        "roadworthy evaluate runs/natural runs/channel", "roadworthy evaluate runs/natural --data gtsrb:PATH --json"
    )
)
@click.argument("run", nargs=-1, required=True, type=FOLDER)
@data_option
@split_options
@click.option("--adversarial", "eps", type=float, help="Also measure accuracy under PGD of this radius (0..1).")
@click.option("--attack", default=DEFAULT_TEST_ATTACK, show_default=True, help=ATTACKS)
@json_option
def evaluate(run: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Measure runs on held-out images: accuracy, size, multiply-accumulates."""
    from toolkit import pipeline, runs

    size = runs.load_info(run[0]).variant.input_size
    dataset = load(options["spec"] or DEFAULT_DATA, size, options)
    attack = attack_config(options)
    measured = [pipeline.evaluate(folder, dataset, attack) for folder in run]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(measured), indent=2))
        return
    for row in measured:
        robust = "" if row.robust_accuracy is None else f" ({row.robust_accuracy:.2%} under attack)"
        click.echo(
            f"{row.run}: {row.accuracy:.2%}{robust} of {row.images} images, {row.macs / 1e6:.1f} M MACs, "
            f"{row.nonzero_parameters:,} of {row.parameters:,} weights not zero"
        )


def load(spec: str, size: int, options: dict[str, Any]) -> Dataset:
    """Load a data set with a bar, and say on stderr what was loaded."""
    from toolkit import data

    with bars() as progress:
        dataset = data.load(
            spec,
            size=size,
            split=options["split"],
            seed=options["data_seed"],
            progress=reading_report(progress, f"reading {spec}"),
        )
    if first_process():
        click.echo(dataset.describe(), err=True)
    return dataset


def training_config(
    options: dict[str, Any], architecture: str, dataset: str, *, fine_tune: bool = False
) -> TrainConfig:
    """Return the recipe's configuration with what the options change."""
    from toolkit import recipes

    config = recipes.preset(options["recipe"], architecture=architecture, dataset=dataset, fine_tune=fine_tune)
    given = {name: options[name] for name in ("epochs", "batch", "learning_rate", "device", "seed")}
    changed = {name: value for name, value in given.items() if value is not None}
    if options["amp"] is not None:
        changed["amp"] = recipes.KINDS if options["amp"] else ()
    if options["compile"] is not None:
        changed["compile"] = "always" if options["compile"] else "never"
    return replace(config, adversarial=attack_config(options), **changed)


def pruning_settings(options: dict[str, Any]) -> Pruning:
    """Return what ``--method`` (``--prune`` of train) and the options beside it describe."""
    from toolkit.pruning import Pruning

    given = {name: options[name] for name in ("importance", "scope", "target", "round_to", "steps") if name in options}
    return Pruning(options["method"], options["amount"], **given)


def attack_config(options: dict[str, Any]) -> PgdConfig | None:
    """Return the attack that ``--adversarial`` and ``--attack`` describe, or None without the former."""
    from toolkit import adversarial

    if options.get("eps") is None:
        return None
    return adversarial.preset(options["attack"], options["eps"])
