"""Does this device compute what the desktop computed? The bundle's golden set run through an execution provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ProviderError
from edge_runtime.sessions import DEFAULT_PROVIDER

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

# Accepted error of the logits, relative to the largest one: TF32 and FP16 accumulate about 1e-3.
LOGIT_TOLERANCE = 5e-3
# Accepted relative L2 error of an attribution, as the median over images: a ReLU unit within rounding of zero may
# flip and move single images by a percent or more, so single images do not count.
ATTRIBUTION_TOLERANCE = 2e-2


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

    @property
    def passed(self) -> bool:
        return (
            self.same_class == self.images
            and self.logits <= LOGIT_TOLERANCE
            and all(median <= ATTRIBUTION_TOLERANCE for median, _ in self.attributions.values())
        )


def self_test(bundle: Bundle, provider: str = DEFAULT_PROVIDER, threads: int | None = None) -> SelfTest:
    """Run the golden set on ``provider`` and return the deviations.

    Raises BundleError for a bundle without golden set, ProviderError for a provider that is not there or returns NaN.
    """
    from edge_runtime.classifier import Classifier
    from edge_runtime.explainer import Explainer

    golden = bundle.golden()
    classifier = Classifier(bundle, provider, threads)
    explainer = Explainer(bundle, provider, threads, classifier=classifier)
    prediction = classifier.classify(golden.images)
    if not prediction.valid.all():
        raise ProviderError(f"provider {provider} returns NaN or infinite logits on the golden set; use another one")
    attributions = {}
    for method, expected in golden.attribution.items():
        explanation = explainer.explain(golden.images, method, target=golden.target)
        if not explanation.valid.all():
            raise ProviderError(f"provider {provider} returns NaN or infinite {method} attributions; use another one")
        errors = relative_error(explanation.attribution, expected)
        attributions[method] = (float(np.median(errors)), float(errors.max()))
    return SelfTest(
        bundle=bundle.manifest.name,
        provider=provider,
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
