"""``roadworthy export``: a training run, or anyone's ONNX file, becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.errors import BundleError, InputError
from edge_runtime.folders import check_target
from edge_runtime.manifest import MANIFEST, InputSpec
from toolkit.cli import require
from toolkit.cli.desktop import DEFAULT_DATA, data_option, load, split_options
from toolkit.cli.options import FILE, FOLDER, examples, force_option

# The options that --from-onnx cannot do without.
OF_ONNX = ("labels", "input_size", "mean", "std")


@click.command(
    epilog=examples(
        "roadworthy export runs/natural --out bundles/natural",
        "roadworthy export runs/natural --data gtsrb:PATH --out bundles/natural",
        "roadworthy export --from-onnx model.onnx --labels labels.txt --input-size 32 \\",
        "    --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --out bundles/mine",
    )
)
@click.argument("run", type=FOLDER, required=False)
@data_option
@split_options
@click.option("--audit-images", default=100, show_default=True, help="Images of the audit set; 0 for no audit set.")
@click.option("--baselines/--no-baselines", default=True, help="Measure Gini and ROAD on the desktop, to compare with.")
@click.option("--from-onnx", "model", type=FILE, help="An ONNX classifier instead of a run; needs no PyTorch.")
@click.option("--labels", type=FILE, help="With --from-onnx: text file, one label a line.")
@click.option("--input-size", help="With --from-onnx: pixels, as 32 or 224x192 (height x width).")
@click.option("--mean", help="With --from-onnx: per RGB channel on the scale 0..1, as 0.5,0.5,0.5.")
@click.option("--std", help="With --from-onnx: as --mean.")
@click.option("--out", "-o", type=FOLDER, required=True, help="Bundle folder to write.")
@force_option
def export(run: Path | None, model: Path | None, out: Path, force: bool, **options: Any) -> None:
    """Make a bundle: classifier, explainer, golden set, audit set, and a manifest with the SHA-256 of each."""
    if (run is None) == (model is None):
        raise InputError("give either a run folder or --from-onnx FILE")
    check_target(out, marker=MANIFEST, force=force, error=BundleError)
    if model is not None:
        export_onnx(model, out, options, force)
    else:
        assert run is not None
        export_run(run, out, options, force)
    click.echo(out)


def export_run(run: Path, out: Path, options: dict[str, Any], force: bool) -> None:
    """Write the bundle of a run."""
    require("export", ["torch"])
    from toolkit import pipeline, runs

    audited = None
    if options["audit_images"]:
        dataset = load(options["spec"] or DEFAULT_DATA, runs.load_info(run).variant.input_size, options)
        audited = pipeline.Audited(dataset, options["audit_images"], options["baselines"])
    pipeline.export(run, out, audited, force=force)


def export_onnx(model: Path, out: Path, options: dict[str, Any], force: bool) -> None:
    """Write the bundle of an ONNX file; its golden images are noise, because no data set is known."""
    from export.bundle import GOLDEN_IMAGES, Contents, write_bundle
    from export.from_onnx import load_classifier
    from export.parity import random_images

    if missing := [f"--{name.replace('_', '-')}" for name in OF_ONNX if options[name] is None]:
        raise InputError(f"--from-onnx needs {', '.join(missing)} as well")
    height, width = parse_size(options["input_size"])
    mean, std = parse_channels("--mean", options["mean"]), parse_channels("--std", options["std"])
    contents = Contents(
        name=model.stem,
        input=InputSpec(height=height, width=width, mean=mean, std=std),
        labels=read_labels(options["labels"]),
        golden_images=random_images(GOLDEN_IMAGES, (height, width)),
    )
    write_bundle(out, load_classifier(model, (height, width)), contents, force=force)


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of ``32`` or ``224x192``."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--input-size {text!r} is no size; write 32, or 224x192 for height x width")
    return int(parts[0]), int(parts[-1])


def parse_channels(option: str, text: str) -> tuple[float, float, float]:
    """Return the three numbers of ``0.5,0.5,0.5``; one number stands for all channels."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise InputError(f"{option} {text!r} is not three numbers; write 0.5,0.5,0.5")
    if option == "--std" and min(values) <= 0:
        raise InputError(f"--std {text!r} must be above 0")
    return values[0], values[1], values[2]


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file; raises InputError for an empty one or a repeated label."""
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    if not labels:
        raise InputError(f"{path} holds no labels; write one a line")
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"{path} repeats the label {repeated[0]!r}; every class needs a name of its own")
    return labels
