"""What the benchmark times: one table of stages, each made ready so that a call does the stage's work alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import AUDIT_SET, EXPLAINER, GOLDEN, Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError
from edge_runtime.explainer import DEFAULT_METHOD, Explainer
from edge_runtime.metrics import PERCENTAGES, gini, road
from edge_runtime.path import METHODS
from edge_runtime.preprocess import normalize


def benchmark_images(bundle: Bundle, count: int) -> NDArray[np.float32]:
    """Return ``count`` normalised images float32 [count, C, H, W]: the bundle's own, repeated, or seeded noise.

    Real images, where there are any, because denormal numbers and sparsity make latency depend on the values.
    """
    spec = bundle.manifest.input
    if bundle.has(GOLDEN):
        images = bundle.golden().images
    elif bundle.has(AUDIT_SET):
        images = normalize(bundle.audit_set().images[:count], spec)
    else:
        noise = np.random.default_rng(0).integers(0, 256, (count, spec.height, spec.width, 3), np.uint8)
        images = normalize(noise, spec)
    return np.ascontiguousarray(images[np.arange(count) % len(images)])


@dataclass(frozen=True)
class Workload:
    """A bundle ready to be timed on ``images`` float32 [N, C, H, W]."""

    bundle: Bundle
    classifier: Classifier
    explainer: Explainer | None
    images: NDArray[np.float32]
    seed: int

    @cached_property
    def target(self) -> NDArray[np.int64]:
        """Predicted classes [N]; a network that gives NaN is timed on class 0."""
        return np.maximum(self.classifier.classify(self.images).target, 0)

    @cached_property
    def saliency(self) -> NDArray[np.float32]:
        """Saliency [N, H, W] for the metrics."""
        return self.require_explainer().explain(self.images, DEFAULT_METHOD, self.target).saliency()

    def require_explainer(self) -> Explainer:
        if self.explainer is None:
            raise BundleError(f"{self.bundle.path} holds no {EXPLAINER}; export it again, or time only 'classify'")
        return self.explainer


Call = Callable[[], object]


def classification(work: Workload) -> Call:
    return partial(work.classifier.predict, work.images)


def explanation(method: str, work: Workload) -> Call:
    """One explanation of the predicted class, which is known by then: explaining follows classifying."""
    return partial(work.require_explainer().explain, work.images, method, work.target, work.seed)


def gini_index(work: Workload) -> Call:
    return partial(gini, work.saliency)


def road_curve(work: Workload) -> Call:
    """One MoRF curve at the default percentages: imputation and classification of every level."""
    classify = work.classifier.predict
    return partial(road, classify, work.images, work.saliency, work.target, PERCENTAGES, "morf", work.seed)


STAGES: dict[str, Callable[[Workload], Call]] = {
    "classify": classification,
    **{method: partial(explanation, method) for method in METHODS},
    "gini": gini_index,
    "road": road_curve,
}
