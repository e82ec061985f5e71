"""Does this device compute what the desktop computed? The bundle's golden set run through an execution provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import EngineError, ProviderError, unknown
from edge_runtime.manifest import FP32, Manifest, ProviderName, Tolerance
from edge_runtime.provider_choice import PassedOver, choose
from edge_runtime.sessions import DEFAULT_PROVIDER, first_line, run_session

if TYPE_CHECKING:
    import onnxruntime

    from edge_runtime.bundle import Bundle

EXPLAINED = 3  # golden images where time matters: a median, and a third of the time of all of them


# By precision and provider; manifests carry their own since format version 2, and these serve for older ones.
TOLERANCES: dict[str, dict[ProviderName, Tolerance]] = {
    FP32: {
        # The golden set comes from this provider: only the order of sums differs between processors.
        "cpu": Tolerance(logits=5e-3, attribution=2e-2),
        # Other algorithms, TF32 where it cannot be switched off: about 1e-3.
        "cuda": Tolerance(logits=5e-3, attribution=2e-2),
        "tensorrt": Tolerance(logits=5e-3, attribution=2e-2),
    },
    # Steps of 5e-4 add up over the layers, and move units across their kink.
    "fp16": dict.fromkeys(("cpu", "cuda", "tensorrt"), Tolerance(logits=2e-2, attribution=0.2)),
    # Where a sum lies within float32 rounding of the middle between two steps, devices take different ones; each moves
    # what follows by a step of 1/127, and units across their kink.
    "int8": dict.fromkeys(("cpu", "cuda", "tensorrt"), Tolerance(logits=5e-2, attribution=0.3)),
}


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Deviation of a device from the golden set of G images.

    ``logits`` is the largest |difference| over the largest |logit|; ``attributions`` the median and the largest
    relative L2 error by method; ``same_class`` how many of the images got the golden prediction. ``tolerance`` is what
    they are judged by, ``passed_over`` what was tried before ``provider``.
    """

    bundle: str
    provider: str
    images: int
    same_class: int
    logits: float
    attributions: dict[str, tuple[float, float]]
    tolerance: Tolerance
    precision: str = FP32
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def passed(self) -> bool:
        return (
            self.same_class == self.images
            and self.logits <= self.tolerance.logits
            and all(median <= self.tolerance.attribution for median, _ in self.attributions.values())
        )

    @property
    def verdict(self) -> str:
        """The deviations and their bounds as one line."""
        methods = "".join(
            f", {method} off by {median:.1e} (bound {self.tolerance.attribution:g})"
            for method, (median, _) in self.attributions.items()
        )
        return (
            f"{self.same_class} of {self.images} golden predictions, "
            f"logits off by {self.logits:.1e} (bound {self.tolerance.logits:g}){methods}"
        )


def tolerance_of(manifest: Manifest, precision: str, provider: str) -> Tolerance:
    """Return the bounds that the manifest sets, or the usual ones where it is silent.

    Raises InputError for a precision that neither knows.
    """
    own: dict[Any, Tolerance] = manifest.tolerances.get(precision, {})
    if provider in own:
        return own[provider]
    if precision not in TOLERANCES:
        raise unknown("precision", precision, TOLERANCES)
    usual: dict[Any, Tolerance] = TOLERANCES[precision]
    return usual[provider]


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
    without golden set, ProviderError for a provider that is not there or returns NaN, EngineError for one that fails.
    """
    from edge_runtime.classifier import Classifier
    from edge_runtime.explainer import Explainer

    choice = choose(bundle, provider, threads, precision=precision)
    provider = choice.provider
    tolerance = tolerance_of(bundle.manifest, precision, provider)
    golden = bundle.golden(precision)
    classifier = Classifier(bundle, provider, threads, precision=precision, run=run_or_tell)
    explainer = Explainer(bundle, provider, threads, precision=precision, classifier=classifier, run=run_or_tell)
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
        tolerance=tolerance,
        passed_over=choice.passed_over,
    )


def run_or_tell(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run the engine once; raises EngineError where it fails, as a provider may that has just started."""
    try:
        return run_session(session, outputs, feeds)
    except EngineError:
        raise
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise EngineError(f"inference failed: {first_line(error)}") from error


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ||found - expected||_2 / ||expected||_2 of each image of [N, C, H, W]; two zero maps agree."""
    axes = (1, 2, 3)
    difference = np.sqrt(((found.astype(np.float64) - expected) ** 2).sum(axis=axes))
    norm = np.sqrt((expected.astype(np.float64) ** 2).sum(axis=axes))
    error: NDArray[np.float64] = difference / np.where(norm > 0, norm, 1.0)
    return error
