"""A few images with their explanations, kept beside an audit's figures: what the numbers look like."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.classifier import Classifier
from edge_runtime.explainer import Explainer
from edge_runtime.image_set import load_image_set
from edge_runtime.preprocess import normalize

if TYPE_CHECKING:
    from edge_runtime.audit import AuditOptions
    from edge_runtime.bundle import Bundle

UNKNOWN = -1  # the class of an image without label
PREFIX = "saliency_"


@dataclass(frozen=True)
class Examples:
    """n images: ``images`` uint8 [n, H, W, 3]; ``labels`` and ``predicted`` int64 [n], -1 where there is none;
    ``saliency`` float32 [n, H, W] by method."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    saliency: dict[str, NDArray[np.float32]]

    def to_npz(self) -> bytes:
        """Return the arrays as a compressed ``.npz``."""
        maps = {PREFIX + method: values for method, values in self.saliency.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=self.images, labels=self.labels, predicted=self.predicted, **maps)  # type: ignore[arg-type]
        return buffer.getvalue()


def explain_examples(
    bundle: Bundle, source: str | os.PathLike[str] | None, count: int, options: AuditOptions
) -> Examples:
    """Explain the first ``count`` images of ``source`` (see ``image_set.load_image_set``) as an audit does.

    Raises what loading the images and opening the sessions raise.
    """
    found = load_image_set(bundle, source)
    images = found.images[:count]
    normalised = normalize(images, bundle.manifest.input)
    classifier = Classifier(bundle, options.provider, options.threads, precision=options.precision)
    explainer = Explainer(bundle, options.provider, options.threads, precision=options.precision, classifier=classifier)
    return Examples(
        images=images,
        labels=np.full(len(images), UNKNOWN, np.int64) if found.labels is None else found.labels[:count],
        predicted=classifier.classify(normalised).target,
        saliency={
            method: explainer.explain(normalised, method, seed=options.seed, preset=options.presets).saliency()
            for method in options.methods
        },
    )


def from_arrays(arrays: dict[str, NDArray[np.generic]], methods: Sequence[str]) -> Examples | None:
    """Return the examples that :meth:`Examples.to_npz` wrote, or None where arrays are missing or do not fit."""
    wanted = {"images": 4, "labels": 1, "predicted": 1, **{PREFIX + method: 3 for method in methods}}
    if any(name not in arrays or arrays[name].ndim != rank for name, rank in wanted.items()):
        return None
    if len({len(arrays[name]) for name in wanted}) != 1:
        return None
    return Examples(
        images=arrays["images"].astype(np.uint8),
        labels=arrays["labels"].astype(np.int64),
        predicted=arrays["predicted"].astype(np.int64),
        saliency={method: arrays[PREFIX + method].astype(np.float32) for method in methods},
    )
