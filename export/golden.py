"""The golden set: inputs with expected outputs, made by the device runtime itself and checked before they are kept."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import Bundle, Golden
from edge_runtime.classifier import Classifier
from edge_runtime.errors import ExportError
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import FP32
from edge_runtime.path import METHODS
from edge_runtime.self_test import tolerance_of
from edge_runtime.sessions import DEFAULT_PROVIDER
from export.parity import TOLERANCE

SEED = 0
# The slope check steps this share of an image's norm to either side; float32 logits carry no smaller steps.
STEP = 1e-3
# A ReLU that switches inside the step bends the slope of single images; a wrong gradient is wrong for all.
SLOPE_TOLERANCE = 0.1
# Float32 errs by about this share of the largest logit; a slope that adds up to less over the step is not to be seen.
LOGIT_ROUNDING = 1e-6

Images = npt.NDArray[np.float32]


def make_golden(bundle: Bundle, images: Images, precision: str = FP32) -> Golden:
    """Return the outputs of ``bundle`` for normalised ``images`` [G,C,H,W], every method with its preset.

    Raises ExportError where the explainer's logits are not the classifier's, an attribution is not a number, or the
    gradient is not the slope of the logit; the latter in FP32 alone, because other precisions go in steps.
    """
    classifier = Classifier(bundle, precision=precision)
    explainer = Explainer(bundle, precision=precision, classifier=classifier)
    tolerance = TOLERANCE
    if precision != FP32:
        bound = tolerance_of(bundle.manifest, precision, DEFAULT_PROVIDER).logits
        tolerance = bound * float(np.abs(classifier.predict(images)).max())
    prediction = classifier.classify(images)
    if not prediction.valid.all():
        raise ExportError(f"the model returns NaN or infinite logits for {int((~prediction.valid).sum())} images")
    attribution = {}
    for method in METHODS:
        explanation = explainer.explain(images, method, seed=SEED)
        difference = float(np.abs(explanation.logits - prediction.logits).max())
        if not difference <= tolerance:
            raise ExportError(f"the explainer's logits differ from the classifier's by {difference:.2e} ({method})")
        if not explanation.valid.all():
            raise ExportError(
                f"{method} gives NaN or infinite attributions for {int((~explanation.valid).sum())} images"
            )
        attribution[method] = explanation.attribution
    if precision == FP32:
        check_slope(classifier, images, prediction.target, attribution["vg"])
    return Golden(images=images, target=prediction.target, logits=prediction.logits, attribution=attribution)


def check_slope(classifier: Classifier, images: Images, target: npt.NDArray[np.int64], gradient: Images) -> None:
    """Raise ExportError unless ``gradient`` is how the classifier's logit changes along it.

    Along d = g/|g| the logit's slope is |g|; it is taken by central differences, one image each, and the median of the
    relative deviations counts, of what the rounding of the logits does not explain: networks that have learnt next to
    nothing are nearly flat. Where g is 0 any direction must be flat, and a random one is taken. This needs the
    classifier alone, so it also catches an explainer of another model.
    """
    norm = np.sqrt((gradient.astype(np.float64) ** 2).sum(axis=(1, 2, 3), keepdims=True))
    scale = np.sqrt((images.astype(np.float64) ** 2).sum(axis=(1, 2, 3), keepdims=True))
    step = np.maximum(scale, 1.0) * STEP
    anywhere = np.random.default_rng(SEED).standard_normal(gradient.shape)
    anywhere /= np.sqrt((anywhere**2).sum(axis=(1, 2, 3), keepdims=True))
    direction = np.where(norm > 0, gradient / np.where(norm > 0, norm, 1.0), anywhere)
    shift = (step * direction).astype(np.float32)
    rows = np.arange(len(images))
    ahead, behind = (classifier.predict(images + sign * shift).astype(np.float64) for sign in (1, -1))
    slope = (ahead - behind)[rows, target] / (2 * step.ravel())
    rounding = LOGIT_ROUNDING * np.abs([ahead, behind]).max(axis=(0, 2)) / step.ravel()
    expected = norm.ravel()
    missing = np.maximum(np.abs(slope - expected) - rounding, 0)
    deviation = missing / np.maximum(np.maximum(np.abs(slope), expected), 1e-12)
    if not float(np.median(deviation)) <= SLOPE_TOLERANCE:
        raise ExportError(
            f"the explainer's gradient is not the classifier's: median deviation {float(np.median(deviation)):.0%} "
            f"from the slope of the logit over {len(images)} images"
        )


def golden_bytes(golden: Golden) -> bytes:
    """Return ``golden.npz``."""
    arrays = {f"attribution_{method}": values for method, values in golden.attribution.items()}
    return npz_bytes(images=golden.images, target=golden.target, logits=golden.logits, **arrays)


def npz_bytes(**arrays: npt.NDArray[np.generic]) -> bytes:
    """Return a compressed ``.npz``; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
