"""Commands that a vehicle has too: verify and classify."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ProviderError
from edge_runtime.manifest import InputSpec
from toolkit.cli.options import FILE, bundle_argument, examples, json_option, runtime_options


@click.command(
    epilog=examples("roadworthy verify bundles/natural", "roadworthy verify bundles/natural --provider cuda")
)
@bundle_argument
@runtime_options
@json_option
def verify(bundle: Path, provider: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle: every file's SHA-256, then the golden set computed on this device."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.self_test import self_test

    opened = open_bundle(bundle)
    result = self_test(opened, provider, threads)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    else:
        click.echo(f"{bundle}: {len(opened.manifest.files)} files as the manifest says, digest {opened.digest[:16]}")
        click.echo(f"golden set on {provider}: {result.same_class} of {result.images} predictions as on the desktop")
        click.echo(f"logits        {result.logits:.1e} of the largest logit")
        for method, (median, largest) in result.attributions.items():
            click.echo(f"{method} gradients  {median:.1e} relative error (median), {largest:.1e} (largest)")
    if not result.passed:
        raise ProviderError(f"{bundle}: provider {provider} does not reproduce the golden set; use another provider")


@click.command(
    epilog=examples("roadworthy classify bundles/natural sign.png", "roadworthy classify bundles/natural *.ppm --json")
)
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=FILE)
@runtime_options
@json_option
def classify(bundle: Path, images: tuple[Path, ...], provider: str, threads: int | None, as_json: bool) -> None:
    """Classify image files with a bundle."""
    from edge_runtime.bundle import open_bundle
    from edge_runtime.classifier import Classifier

    opened = open_bundle(bundle)
    classifier = Classifier(opened, provider, threads)
    prediction = classifier.classify(load_images(images, opened.manifest.input))
    rows = [
        {
            "image": str(path),
            "label": opened.labels[target] if valid else None,
            "class": int(target) if valid else None,
            "probability": float(probability) if valid else None,
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


def load_images(paths: tuple[Path, ...], spec: InputSpec) -> NDArray[np.float32]:
    """Read, resize and normalise image files to float32 [N,3,H,W]."""
    from edge_runtime.preprocess import load_image, normalize, resize

    return normalize(np.stack([resize(load_image(path), spec.height, spec.width) for path in paths]), spec)
