"""Does this device compute what the desktop computed? The bundle's golden set run through an execution provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ProviderError, unknown
from edge_runtime.manifest import FP32
from edge_runtime.sessions import DEFAULT_PROVIDER

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle


class Tolerance(msgspec.Struct, frozen=True):
    """Accepted deviations of one precision, and why.

    ``logits``: relative to the largest one. ``attribution``: relative L2 error, as the median over images: a ReLU unit
    within rounding of zero may flip and move single images by a percent or more, so single images do not count.
    """

    logits: float
    attribution: float


TOLERANCES: dict[str, Tolerance] = {
    # TF32 and FP16 accumulate about 1e-3.
    FP32: Tolerance(logits=5e-3, attribution=2e-2),
    # Steps of 5e-4 add up over the layers, and move units across their kink.
    "fp16": Tolerance(logits=2e-2, attribution=0.2),
    # Where a sum lies within float32 rounding of the middle between two steps, devices take different ones; each moves
    # what follows by a step of 1/127, and units across their kink.
    "int8": Tolerance(logits=5e-2, attribution=0.3),
}


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Deviation of a device from the golden set of G images.

    ``logits`` is the largest |difference| over the largest |logit|; ``attributions`` the median and the largest
    relative L2 error by method; ``same_class`` how many of the images got the golden prediction.
    """

    bundle: str
    provider: str
    images: int
    same_class: int
    logits: float
    attributions: dict[str, tuple[float, float]]
    precision: str = FP32

    @property
    def passed(self) -> bool:
        tolerance = TOLERANCES[self.precision]
        return (
            self.same_class == self.images
            and self.logits <= tolerance.logits
            and all(median <= tolerance.attribution for median, _ in self.attributions.values())
        )


def self_test(
    bundle: Bundle,
    provider: str = DEFAULT_PROVIDER,
    threads: int | None = None,
    *,
    precision: str = FP32,
    explained: int | None = None,
) -> SelfTest:
    """Run the golden set of ``precision`` on ``provider`` and return the deviations.

    All images are classified and the first ``explained`` (None: all) explained, which takes nearly all of the time.

    Raises InputError for a precision that the bundle lacks or this runtime does not know, BundleError for a bundle
    without golden set, ProviderError for a provider that is not there or returns NaN.
    """
    from edge_runtime.classifier import Classifier
    from edge_runtime.explainer import Explainer

    if precision not in TOLERANCES:
        raise unknown("precision", precision, TOLERANCES)
    golden = bundle.golden(precision)
    classifier = Classifier(bundle, provider, threads, precision=precision)
    explainer = Explainer(bundle, provider, threads, precision=precision, classifier=classifier)
    prediction = classifier.classify(golden.images)
    if not prediction.valid.all():
        raise ProviderError(f"provider {provider} returns NaN or infinite logits on the golden set; use another one")
    attributions = {}
    for method, expected in golden.attribution.items():
        explanation = explainer.explain(golden.images[:explained], method, target=golden.target[:explained])
        if not explanation.valid.all():
            raise ProviderError(f"provider {provider} returns NaN or infinite {method} attributions; use another one")
        errors = relative_error(explanation.attribution, expected[:explained])
        attributions[method] = (float(np.median(errors)), float(errors.max()))
    return SelfTest(
        bundle=bundle.manifest.name,
        provider=provider,
        precision=precision,
        images=len(golden.images),
        same_class=int((prediction.target == golden.target).sum()),
        logits=float(np.abs(prediction.logits - golden.logits).max() / np.abs(golden.logits).max()),
        attributions=attributions,
    )


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ||found - expected||_2 / ||expected||_2 of each image of [N, C, H, W]; two zero maps agree."""
    axes = (1, 2, 3)
    difference = np.sqrt(((found.astype(np.float64) - expected) ** 2).sum(axis=axes))
    norm = np.sqrt((expected.astype(np.float64) ** 2).sum(axis=axes))
    error: NDArray[np.float64] = difference / np.where(norm > 0, norm, 1.0)
    return error
