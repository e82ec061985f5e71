"""Commands that a vehicle has too: verify, classify, explain."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ProviderError, unknown
from edge_runtime.explainer import DEFAULT_METHOD
from edge_runtime.manifest import PRESETS, InputSpec
from edge_runtime.path import METHODS
from toolkit.cli.options import (
    FILE,
    bundle_argument,
    examples,
    force_option,
    json_option,
    precision_option,
    runtime_options,
)


@click.command(
    epilog=examples("roadworthy verify bundles/natural", "roadworthy verify bundles/natural --root root.json")
)
@bundle_argument
@click.option("--root", type=FILE, help="Demand signatures that this root leads to.  [default: the installed root]")
@precision_option
@runtime_options
@json_option
def verify(bundle: Path, root: Path | None, precision: str, provider: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle: signatures, every file's SHA-256, then the golden set computed on this device."""
    from edge_runtime.self_test import self_test
    from edge_runtime.trust import open_checked, open_with_root

    opened, accepted = open_checked(bundle) if root is None else open_with_root(bundle, root)
    result = self_test(opened, provider, threads, precision=precision)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    else:
        click.echo(f"{bundle}: {len(opened.manifest.files)} files as the manifest says, digest {opened.digest[:16]}")
        click.echo(f"signatures: {accepted or 'not checked, for no root of trust is installed here'}")
        same = f"{result.same_class} of {result.images} predictions as on the desktop"
        click.echo(f"golden set in {precision} on {result.provider}: {same}")
        click.echo(f"logits        {result.logits:.1e} of the largest logit")
        for method, (median, largest) in result.attributions.items():
            click.echo(f"{method} gradients  {median:.1e} relative error (median), {largest:.1e} (largest)")
    if not result.passed:
        raise ProviderError(
            f"{bundle}: provider {result.provider} does not reproduce the golden set; use another provider"
        )


@click.command(
    epilog=examples("roadworthy classify bundles/natural sign.png", "roadworthy classify bundles/natural *.ppm --json")
)
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=FILE)
@precision_option
@runtime_options
@json_option
def classify(
    bundle: Path, images: tuple[Path, ...], precision: str, provider: str, threads: int | None, as_json: bool
) -> None:
    """Classify image files with a bundle."""
    from edge_runtime.classifier import Classifier
    from edge_runtime.provider_choice import choose
    from edge_runtime.trust import open_required

    opened = open_required(bundle)
    choice = choose(opened, provider, threads, precision=precision)
    classifier = Classifier(opened, choice.provider, threads, precision=precision)
    prediction = classifier.classify(load_images(images, opened.manifest.input))
    told = {"provider": choice.provider, **({"passed_over": choice.passed_over} if choice.passed_over else {})}
    rows = [
        {
            "image": str(path),
            "label": opened.labels[target] if valid else None,
            "class": int(target) if valid else None,
            "probability": float(probability) if valid else None,
            **told,
        }
        for path, target, probability, valid in zip(
            images, prediction.target, prediction.probability, prediction.valid, strict=True
        )
    ]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    for row in rows:
        said = f"{row['label']} ({row['probability']:.1%})" if row["label"] is not None else "no class: logits are NaN"
        click.echo(f"{row['image']}: {said}")


@click.command(
    epilog=examples(
        "roadworthy explain bundles/natural sign.png --method ig -o explained.png",
        "roadworthy explain bundles/natural sign.png -o why_stop.png --target stop",
    )
)
@bundle_argument
@click.argument("image", type=FILE)
@click.option("--out", "-o", type=FILE, required=True, help="Picture to write: .png, .jpg or .webp.")
@click.option("--method", default=DEFAULT_METHOD, show_default=True, help=f"One of: {', '.join(METHODS)}.")
@click.option("--target", help="Label or class number to explain.  [default: the predicted class]")
@click.option("--preset", help=f"Parameters: {', '.join(PRESETS)}.  [default: the bundle's own]")
@click.option("--seed", default=0, show_default=True, help="Seed of SmoothGrad's noise.")
@click.option("--chunk", type=int, help="Sample points of one engine run: bounds the memory.")
@precision_option
@runtime_options
@force_option
def explain(
    bundle: Path,
    image: Path,
    out: Path,
    method: str,
    target: str | None,
    preset: str | None,
    seed: int,
    chunk: int | None,
    precision: str,
    provider: str,
    threads: int | None,
    force: bool,
) -> None:
    """Draw why a bundle decides as it does: the saliency over the image, with prediction and scale."""
    from edge_runtime.explainer import Explainer
    from edge_runtime.overlay import caption, draw_explanation, save_image
    from edge_runtime.preprocess import load_image
    from edge_runtime.trust import open_required

    opened = open_required(bundle)
    explainer = Explainer(opened, provider, threads, precision=precision)
    explanation = explainer.explain(
        load_images((image,), opened.manifest.input),
        method,
        target=None if target is None else class_of(target, opened.labels),
        seed=seed,
        chunk=chunk,
        preset=preset,
    )
    save_image(draw_explanation(load_image(image), explanation, opened.labels), out, force=force)
    for line in caption(explanation, opened.labels, 0):
        click.echo(line)
    click.echo(out)


def class_of(name: str, labels: tuple[str, ...]) -> int:
    """Return the class that a label or a number names; raises InputError for neither."""
    if name in labels:
        return labels.index(name)
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    raise unknown("label", name, labels)


def load_images(paths: tuple[Path, ...], spec: InputSpec) -> NDArray[np.float32]:
    """Read, resize and normalise image files to float32 [N,3,H,W]."""
    from edge_runtime.preprocess import load_image, normalize, resize

    return normalize(np.stack([resize(load_image(path), spec.height, spec.width) for path in paths]), spec)
