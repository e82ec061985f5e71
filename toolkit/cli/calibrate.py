"""``roadworthy calibrate``: a bundle gets another precision, if its explanations survive it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from calibration.options import DEFAULT_IMAGES, DEFAULT_PRECISION, DEFAULT_SAMPLES, CalibrationOptions, DriftOptions
from calibration.thresholds import DEFAULT_METHOD
from calibration.thresholds import METHODS as THRESHOLDS
from edge_runtime.errors import BundleError, InputError
from edge_runtime.folders import check_new, check_target, new_file
from edge_runtime.manifest import MANIFEST, Gate
from edge_runtime.path import METHODS
from toolkit.cli.desktop import DATA_FORMS, DEFAULT_DATA, load, split_options
from toolkit.cli.measure import counting
from toolkit.cli.options import FILE, FOLDER, bundle_argument, examples, force_option, json_option, stack

if TYPE_CHECKING:
    from calibration.calibrate import Data
    from calibration.drift import Drift
    from calibration.ranges import Ranges
    from calibration.sensitivity import LayerSensitivity
    from edge_runtime.bundle import Bundle

RANDOM = "random"
LIMITS = Gate()

gate_options = stack(
    click.option(
        "--max-accuracy-drop", default=LIMITS.max_accuracy_drop, show_default=True, help="Share of held-out images."
    ),
    click.option(
        "--min-rank-correlation",
        default=LIMITS.min_rank_correlation,
        show_default=True,
        help="Of the vanilla gradient's saliency with FP32's.",
    ),
    click.option(
        "--max-road-auc-increase",
        default=LIMITS.max_road_auc_increase,
        show_default=True,
        help="Of the area under its ROAD curve.",
    ),
)


@click.command(
    epilog=examples(
        "roadworthy calibrate bundles/natural --data gtsrb:PATH --out bundles/natural-int8",
        "roadworthy calibrate bundles/natural --auto --out bundles/natural --force",
    )
)
@bundle_argument
@click.option("--data", "-d", "spec", help=f"Data set: {DATA_FORMS}, or {RANDOM} (noise).  [default: {DEFAULT_DATA}]")
@split_options
@click.option("--precision", default=DEFAULT_PRECISION, show_default=True, help="int8 or fp16.")
@click.option("--samples", default=DEFAULT_SAMPLES, show_default=True, help="Training images, the classes in turn.")
@click.option("--method", default=DEFAULT_METHOD, show_default=True, help=f"One of: {', '.join(THRESHOLDS)}.")
@click.option("--keep", multiple=True, metavar="LAYER", help="Leave this layer in floating point; may be repeated.")
@click.option("--keep-fp", "keep_worst", default=0, metavar="N", help="Leave the N worst layers in floating point.")
@click.option("--auto", is_flag=True, help="Leave the fewest layers in floating point that the gate allows.")
@click.option("--sensitivity", type=FILE, help="JSON file for what each layer does; a plot goes beside it.")
@gate_options
@click.option("--images", default=DEFAULT_IMAGES, show_default=True, help="Held-out images to explain.")
@click.option("--explainer", "methods", multiple=True, help=f"Report only these: {', '.join(METHODS)}.")
@click.option("--ranges", "ranges_in", type=FILE, help="Use these ranges: JSON, or a TensorRT calibration cache.")
@click.option("--ranges-out", type=FILE, help="Write the ranges as JSON, or as a TensorRT cache (.cache).")
@click.option("--cache/--no-cache", default=True, help="Keep what the images showed for the next calibration.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--out", "-o", type=FOLDER, required=True, help="Bundle folder to write.")
@json_option
@force_option
def calibrate(
    bundle: Path, spec: str | None, out: Path, as_json: bool, force: bool, cache: bool, **options: Any
) -> None:
    """Add INT8 or FP16 to a bundle, or exit with code 3 and write nothing if its explanations do not survive."""
    from calibration import calibrate as library
    from calibration.ranges import default_cache
    from edge_runtime.bundle import open_bundle

    check_target(out, marker=MANIFEST, force=force, error=BundleError)
    for file in filter(None, (options["ranges_out"], options["sensitivity"])):
        check_new(file, force=force)
    opened = open_bundle(bundle)
    chosen = CalibrationOptions(
        precision=options["precision"],
        samples=options["samples"],
        method=options["method"],
        seed=options["seed"],
        gate=Gate(**{name: options[name] for name in Gate.__struct_fields__}),
        ranges=None if options["ranges_in"] is None else read(options["ranges_in"]),
        keep=options["keep"],
        keep_worst=options["keep_worst"],
        auto=options["auto"],
        sensitivity=options["sensitivity"] is not None,
        cache=default_cache() if cache else None,
        drift=DriftOptions(options["images"], options["methods"] or tuple(METHODS), options["seed"]),
    )
    data = images_for(opened, spec, options)
    with counting() as progress:
        made = library.calibrate(opened, out, data, chosen, force=force, progress=progress)
    if options["ranges_out"] is not None and made.ranges is not None:
        write(made.ranges, options["ranges_out"], force)
    if options["sensitivity"] is not None:
        write_layers(made.layers, options["sensitivity"], force)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(msgspec.json.format(msgspec.json.encode(made.drift), indent=2) if as_json else drift_table(made.drift))
    click.echo(out, err=as_json)


def read(path: Path) -> Ranges:
    """Read ranges in the format that the file's name says."""
    from calibration.ranges import read_ranges
    from calibration.tensorrt_cache import SUFFIX, read_cache

    return read_cache(path) if path.suffix == SUFFIX else read_ranges(path)


def write(ranges: Ranges, path: Path, force: bool) -> None:
    """Write ranges in the format that the file's name says."""
    from calibration.ranges import write_ranges
    from calibration.tensorrt_cache import SUFFIX, write_cache

    (write_cache if path.suffix == SUFFIX else write_ranges)(ranges, path, force=force)


def write_layers(rows: tuple[LayerSensitivity, ...], path: Path, force: bool) -> None:
    """Write the table of layers as JSON, and the plot of it beside as PNG."""
    from toolkit.report.layers import draw_layers

    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, force=force) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    with new_file(path.with_suffix(".png"), force=True) as temporary:
        temporary.write_bytes(draw_layers(rows))


def images_for(bundle: Bundle, spec: str | None, options: dict[str, Any]) -> Data:
    """Return the images to calibrate with and those to compare on; noise only where it is asked for."""
    from calibration.calibrate import Data
    from calibration.images import LabelledImages, random_images
    from edge_runtime.bundle import AUDIT_SET

    size = bundle.manifest.input
    if spec == RANDOM:
        noise = random_images(size, len(bundle.labels), options["samples"], options["seed"])
        seen = bundle.audit_set().images if bundle.has(AUDIT_SET) else noise.images
        return Data(noise, LabelledImages(seen, decisions(bundle, seen), "the network's own decisions"))
    if size.height != size.width:
        raise InputError(f"data sets are square, the bundle takes {size.height}x{size.width}; use the Python API")
    dataset = load(spec or DEFAULT_DATA, size.height, options)
    if dataset.labels != bundle.labels:
        raise InputError(
            f"{dataset.spec} has {len(dataset.labels)} classes, the bundle {len(bundle.labels)} others; pass the data "
            "that it was trained on"
        )
    train, other = dataset.train, dataset.held_out()
    return Data(
        LabelledImages(train.images, train.labels, dataset.spec),
        LabelledImages(other.images, other.labels, dataset.spec),
    )


def decisions(bundle: Bundle, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the classes that the bundle names: without labels, what must survive is its own decision."""
    from edge_runtime.classifier import Classifier
    from edge_runtime.preprocess import normalize

    return Classifier(bundle).classify(normalize(images, bundle.manifest.input)).target


def drift_table(drift: Drift) -> str:
    """Return the report as plain text: what changed, then a line for each explainer and mode."""
    plain, other = (drift.accuracy[name] for name in ("fp32", drift.precision))
    lines = [
        f"{drift.bundle}: accuracy {other:.2%} ({other - plain:+.2%}), {drift.flipped} of {drift.images} predictions "
        "flipped"
    ]
    for found in drift.drifts:
        low, high = found.road_interval
        gradient = drift.precision if found.gradient == "through" else found.gradient
        lines.append(
            f"  {found.method}, {gradient} gradient: rank correlation {found.rank_correlation:.3f}, "
            f"top 10 % IoU {found.top_iou:.3f}, cosine {found.cosine:.3f}, Gini {found.gini_change:+.3f}, "
            f"ROAD area {found.road_auc_change:+.3f} ({low:+.3f} to {high:+.3f})"
        )
    for stage in ("classify", "vg"):
        times = ", ".join(f"{each[stage]:.2f} ms ({name})" for name, each in drift.latency.items())
        lines.append(f"  {stage}: {times}")
    sizes = ", ".join(f"{file} {size / 1e6:.2f} MB" for file, size in drift.size.items())
    return "\n".join([*lines, f"  {sizes}"])
