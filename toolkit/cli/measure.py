"""Commands that measure bundles on the device: audit and bench."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edge_runtime.folders import check_new, check_target, new_file, new_folder
from edge_runtime.manifest import FP32, MANIFEST, PRESETS
from edge_runtime.path import METHODS
from toolkit.cli.loop import OF_SOURCE, check_form, run_loop, source_options
from toolkit.cli.options import (
    FILE,
    FOLDER,
    bundle_argument,
    examples,
    force_option,
    json_option,
    precision_option,
    runtime_options,
)

if TYPE_CHECKING:
    from edge_runtime.audit import AuditResult

AUDIT = "audit.json"
EXAMPLES = "examples.npz"


@click.command(
    epilog=examples(
        "roadworthy audit bundles/natural --out results/natural",
        "roadworthy audit bundles/natural --images signs/ --limit 50 --method vg",
        "roadworthy audit bundles/natural --source drive.mcap --log audit.db",
    )
)
@bundle_argument
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images or .npz.  [default: the audit set]")
@click.option("--limit", type=int, help="Audit so many images, drawn at random.")
@click.option("--method", "-m", "methods", multiple=True, help=f"Only these explainers: {', '.join(METHODS)}.")
@click.option("--road/--no-road", default=True, help="Measure faithfulness too (most of the time).")
@click.option("--preset", "presets", help=f"Explainers' parameters: {', '.join(PRESETS)}.  [default: the bundle's own]")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option(
    "--examples", "example_count", default=4, show_default=True, help="Images to keep with their explanations."
)
@precision_option
@runtime_options
@click.option("--out", "-o", type=FOLDER, help="Folder for the result; `roadworthy report` reads it.")
@json_option
@force_option
@source_options
@click.pass_context
def audit(ctx: click.Context, /, bundle: Path, as_json: bool, **options: Any) -> None:
    """Audit a bundle: accuracy, sparsity (Gini), faithfulness (ROAD) and latency of every explainer.

    On a set of images, once; or with --source on frames as they come, for as long as they come (docs/vehicle_loop.md).
    """
    check_form(ctx)
    if options["source"] is not None:
        run_loop(bundle, options, as_json)
        return
    images = {name: value for name, value in options.items() if name not in ("source", *OF_SOURCE)}
    audit_images(bundle, as_json=as_json, **images)


def audit_images(
    bundle: Path, images: Path | None, example_count: int, out: Path | None, as_json: bool, force: bool, **options: Any
) -> None:
    """Audit a set of images and print or write the result."""
    from edge_runtime.audit import AuditOptions, audit_bundle
    from edge_runtime.examples import explain_examples
    from edge_runtime.trust import open_required

    if out is not None:
        check_target(out, marker=AUDIT, force=force)
    options["methods"] = options["methods"] or tuple(METHODS)
    chosen = AuditOptions(**options)
    opened = open_required(bundle)
    with counting() as progress:
        result = audit_bundle(opened, images, chosen, progress)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=2)
    if out is not None:
        shown = explain_examples(opened, images, example_count, chosen) if example_count else None
        with new_folder(out, marker=AUDIT, force=force) as folder:
            (folder / AUDIT).write_bytes(encoded + b"\n")
            # The result's digest is this file's SHA-256, so the report can tell that they belong together.
            (folder / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes())
            if shown is not None:
                (folder / EXAMPLES).write_bytes(shown.to_npz())
    click.echo(encoded if as_json else audit_table(result))
    if out is not None:
        click.echo(out, err=as_json)


@click.command(
    epilog=examples(
        "roadworthy bench bundles/natural bundles/channel",
        "roadworthy bench bundles/natural --precision fp32 --precision int8",
        "roadworthy bench bundles/* --seconds 10 --batch 1 --batch 8 --out results/bench.json",
    )
)
@click.argument("bundles", nargs=-1, required=True, type=FOLDER)
@click.option("--stage", "stages", multiple=True, help="Only these: classify, vg, ig, sg, gini, road.")
@click.option(
    "--precision", "precisions", multiple=True, help="As fp32 or int8; may be repeated to compare.  [default: fp32]"
)
@click.option("--batch", "batches", multiple=True, type=int, help="Images of one call; may be repeated.  [default: 1]")
@click.option("--iterations", type=int, help="Calls of each bundle, stage and batch size.")
@click.option("--seconds", type=float, help="Seconds of each bundle, stage and batch size, instead of --iterations.")
@click.option("--warmup", type=int, help="Calls before the first that counts.")
@click.option("--cold-starts", type=int, help="Fresh processes of each bundle; 0 for none.")
@click.option("--seed", type=int, help="Seed of noise and bootstrap.")
@runtime_options
@click.option("--out", "-o", type=FILE, help="JSON file for the result; `roadworthy report` reads it.")
@click.option("--samples", type=FILE, help="Parquet file for every sample.")
@json_option
@force_option
def bench(
    bundles: tuple[Path, ...], out: Path | None, samples: Path | None, as_json: bool, force: bool, **options: Any
) -> None:
    """Time bundles on this device, in alternation: every percentile, with the device's clocks and temperatures."""
    from edge_runtime.benchmark import BenchmarkOptions, benchmark_bundles
    from edge_runtime.benchmark_output import format_table, write_samples
    from edge_runtime.trust import open_required

    for file in filter(None, (out, samples)):
        check_new(file, force=force)  # the measurement may take minutes
    given = {name: value for name, value in options.items() if value not in (None, ())}
    opened = [open_required(path) for path in bundles]
    with counting() as progress:
        measured = benchmark_bundles(opened, BenchmarkOptions(**given), progress)
    encoded = msgspec.json.format(msgspec.json.encode(measured.result), indent=2)
    if samples is not None:
        write_samples(measured, samples, force=force)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with new_file(out, force=force) as temporary:
            temporary.write_bytes(encoded + b"\n")
    click.echo(encoded if as_json else format_table(measured.result))


def audit_table(result: AuditResult) -> str:
    """Return the result as plain text: one line per explainer."""
    accuracy = "no labels" if result.accuracy is None else f"accuracy {result.accuracy:.1%}"
    precision = "" if result.options.precision == FP32 else f" in {result.options.precision}"
    lines = [f"{result.bundle}{precision}: {accuracy} of {result.images} images ({result.source})"]
    for method, found in result.explainers.items():
        measures = [f"Gini {show(found.gini.mean)}", f"gradient norm {show(found.gradient_norm.mean)}"]
        if found.road is not None:
            road = found.road
            measures.append(f"ROAD {road.combined:+.3f} (MoRF {road.morf_auc:.3f}, LeRF {road.lerf_auc:.3f})")
        latency = result.latency[method]
        measures.append(f"{latency.p50:.2f} ms (p50), {latency.p99:.2f} ms (p99)")
        lines.append(f"  {method}: {', '.join(measures)}")
    return "\n".join(lines)


def show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


@contextlib.contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback that rewrites one line on a terminal's stderr; elsewhere it says nothing.

    A device install has no rich, so this is plain text.
    """
    terminal = sys.stderr.isatty()

    def tell(stage: str, done: int, total: int) -> None:
        if terminal:
            of = f" of {total}" if total else ""
            click.echo(f"\r\x1b[K{stage}: {done}{of}", nl=False, err=True)

    try:
        yield tell
    finally:
        if terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
