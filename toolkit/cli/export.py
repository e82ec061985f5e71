"""``roadworthy export``: a training run, or anyone's ONNX file, becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from edge_runtime.errors import BundleError, InputError
from edge_runtime.folders import check_target
from edge_runtime.manifest import MANIFEST, InputSpec
from toolkit.cli.options import FILE, FOLDER, examples, force_option

# Images of the golden set: enough for medians, few enough that the self-test of a vehicle takes seconds.
GOLDEN_IMAGES = 8


@dataclass(frozen=True)
class OnnxSource:
    """What a user says about an ONNX file of their own."""

    model: Path
    labels: Path
    input_size: str
    mean: str
    std: str


@click.command(
    epilog=examples(
        "roadworthy export runs/natural --out bundles/natural",
        "roadworthy export --from-onnx model.onnx --labels labels.txt --input-size 32 \\",
        "    --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --out bundles/mine",
    )
)
@click.option("--from-onnx", "onnx_file", type=FILE, help="An ONNX classifier instead of a run; needs no PyTorch.")
@click.option("--labels", type=FILE, help="With --from-onnx: text file, one label a line.")
@click.option("--input-size", help="With --from-onnx: pixels, as 32 or 224x192 (height x width).")
@click.option("--mean", help="With --from-onnx: per RGB channel on the scale 0..1, as 0.5,0.5,0.5.")
@click.option("--std", help="With --from-onnx: as --mean.")
@click.option("--out", "-o", type=FOLDER, required=True, help="Bundle folder to write.")
@force_option
def export(
    onnx_file: Path | None,
    labels: Path | None,
    input_size: str | None,
    mean: str | None,
    std: str | None,
    out: Path,
    force: bool,
) -> None:
    """Make a bundle: classifier, explainer, golden set, and a manifest with the SHA-256 of each."""
    check_target(out, marker=MANIFEST, force=force, error=BundleError)
    if onnx_file is not None:
        given = {"--labels": labels, "--input-size": input_size, "--mean": mean, "--std": std}
        if missing := [option for option, value in given.items() if value is None]:
            raise InputError(f"--from-onnx needs {', '.join(missing)} as well")
        export_onnx(OnnxSource(onnx_file, labels, input_size, mean, std), out, force)
    click.echo(out)


def export_onnx(source: OnnxSource, out: Path, force: bool) -> None:
    """Write the bundle of an ONNX file; its golden images are noise, because no data set is known."""
    from export.bundle import write_bundle
    from export.from_onnx import load_classifier
    from export.parity import random_images

    height, width = parse_size(source.input_size)
    spec = InputSpec(
        height=height, width=width, mean=parse_channels("--mean", source.mean), std=parse_channels("--std", source.std)
    )
    labels = read_labels(source.labels)
    write_bundle(
        out,
        load_classifier(source.model, (height, width)),
        name=source.model.stem,
        input=spec,
        labels=labels,
        golden_images=random_images(GOLDEN_IMAGES, (height, width)),
        force=force,
    )


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
