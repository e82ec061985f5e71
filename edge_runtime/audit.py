"""Audit a bundle on a set of images: accuracy, and of every explainer Gini, gradient norm, ROAD and latency."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier, Prediction, interpret
from edge_runtime.errors import InputError, unknown
from edge_runtime.explainer import Explainer, Explanation
from edge_runtime.image_set import ImageSet, load_image_set
from edge_runtime.latency import LatencySummary, summarize
from edge_runtime.manifest import FP32, PRESETS, ExplainerPreset
from edge_runtime.metrics import ORDERS, PERCENTAGES, RoadCurve, combined, gini, gradient_norm, image_areas, road
from edge_runtime.path import METHODS
from edge_runtime.preprocess import normalize
from edge_runtime.provider_choice import PassedOver, choose
from edge_runtime.sessions import DEFAULT_PROVIDER
from edge_runtime.software import software_versions
from edge_runtime.variant import Variant

RESULT_FORMAT = 1
WARM_UP = 2  # calls of each stage before the first that counts

Progress = Callable[[str, int, int], None]  # stage, images (or curves) done, of how many
Measure = Literal["accuracy", "agreement"]
Interval = tuple[float, float]
Result = TypeVar("Result")


class AuditOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to audit. ``limit`` draws that many images at random; ``presets`` names a family instead of the bundle's.

    ``road_images`` "correct" takes only images that the model classifies correctly, as the paper does.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    road: bool = True
    percentages: tuple[float, ...] = tuple(PERCENTAGES)
    road_images: Literal["correct", "all"] = "correct"
    limit: int | None = None
    presets: str | None = None
    precision: str = FP32
    provider: str = DEFAULT_PROVIDER
    threads: int | None = None
    seed: int = 0


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value per image, None where it is undefined; ``mean`` is over the others, None if there are none."""

    values: tuple[float | None, ...]
    mean: float | None
    undefined: int


class RoadAudit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ROAD curves of one explainer over ``images`` images, most (MoRF) and least (LeRF) salient pixels removed first.

    ``measure`` says what the curves count, and the two are never comparable: "accuracy" against the labels, or
    "agreement" with the model's own prediction on the intact image, where there are no labels. ``*_probability`` is
    the mean probability of that class, ``*_interval`` the 95 % bootstrap interval over images of each point,
    ``*_auc_interval`` of the area. ``combined`` is (LeRF - MoRF) / 2 of the areas: the higher, the more faithful;
    ``areas`` holds it for every image.
    """

    measure: Measure
    images: int
    percentages: tuple[float, ...]
    morf: tuple[float, ...]
    lerf: tuple[float, ...]
    morf_interval: tuple[Interval, ...]
    lerf_interval: tuple[Interval, ...]
    morf_probability: tuple[float, ...]
    lerf_probability: tuple[float, ...]
    morf_auc: float
    lerf_auc: float
    morf_auc_interval: Interval
    lerf_auc_interval: Interval
    combined: float
    areas: tuple[float, ...] = ()


class ExplainerAudit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One explainer on all images. ``invalid`` counts images whose attribution is not finite."""

    preset: ExplainerPreset
    invalid: int
    gini: Distribution
    gradient_norm: Distribution
    completeness_gap: Distribution | None
    road: RoadAudit | None


class AuditResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that one audit found.

    ``accuracy`` is None without labels; ``invalid`` counts images whose logits are not finite, which are counted as
    wrong. ``latency`` is in milliseconds: one image per call for the classifier, the explainers and "gini"; "road" is
    one curve over all its images, divided by them. ``passed_over`` is what ``--provider auto`` did not take.
    """

    format: int
    started: str
    bundle: str
    digest: str
    variant: Variant | None
    options: AuditOptions
    software: dict[str, str]
    source: str
    skipped: tuple[str, ...]
    images: int
    labelled: bool
    accuracy: float | None
    invalid: int
    explainers: dict[str, ExplainerAudit]
    latency: dict[str, LatencySummary]
    confidence: Distribution | None = None
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True)
class Explained:
    """One explainer on all N images: ``saliency`` [N, H, W], NaN where not ``valid`` [N]; ``norm``, ``gap`` [N]."""

    preset: ExplainerPreset
    saliency: NDArray[np.float32]
    norm: NDArray[np.float64]
    gap: NDArray[np.float64] | None
    valid: NDArray[np.bool_]


def audit_bundle(
    bundle: Bundle,
    source: str | os.PathLike[str] | None = None,
    options: AuditOptions | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Classify, explain and audit the images of ``source`` (see :func:`image_set.load_image_set`).

    Raises InputError for options that cannot be, and what loading the images and opening the sessions raise.
    """
    options = options or AuditOptions()
    check_options(options)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found = load_image_set(bundle, source).limited(options.limit, options.seed)
    choice = choose(bundle, options.provider, options.threads, precision=options.precision)
    options = msgspec.structs.replace(options, provider=choice.provider)
    auditor = Auditor(bundle, found, options, progress)
    explainers = {method: auditor.audit(method) for method in options.methods}
    return AuditResult(
        format=RESULT_FORMAT,
        started=started,
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        variant=bundle.manifest.variant,
        options=options,
        software=software_versions(),
        source=found.source,
        skipped=found.skipped,
        images=len(found.images),
        labelled=found.labels is not None,
        accuracy=auditor.accuracy,
        invalid=int(np.count_nonzero(~auditor.prediction.valid)),
        explainers=explainers,
        latency={stage: summarize(np.asarray(samples)) for stage, samples in auditor.milliseconds.items()},
        confidence=distribution(auditor.prediction.probability.astype(np.float64)),
        passed_over=choice.passed_over,
    )


def check_options(options: AuditOptions) -> None:
    """Raise InputError, before long work, for unknown names, a bad seed, and percentages not ascending in 0..100."""
    for method in options.methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    if options.presets is not None and options.presets not in PRESETS:
        raise unknown("preset", options.presets, PRESETS)
    if options.seed < 0:
        raise InputError(f"seed is {options.seed}; give a number of at least 0")
    levels = options.percentages
    ascending = all(low < high for low, high in itertools.pairwise(levels))
    if not levels or not ascending or not 0 <= levels[0] <= levels[-1] <= 100:
        raise InputError(f"percentages are {list(levels)}; give ascending numbers from 0 to 100")


class Auditor:
    """Images, sessions and clock of one audit."""

    def __init__(self, bundle: Bundle, found: ImageSet, options: AuditOptions, progress: Progress | None) -> None:
        self.options = options
        self.labels = found.labels
        self.images = normalize(found.images, bundle.manifest.input)
        self.milliseconds: dict[str, list[float]] = {}
        self.classifier = Classifier(bundle, options.provider, options.threads, precision=options.precision)
        self._bundle = bundle
        self._tell: Progress = progress or (lambda stage, done, total: None)
        self.prediction = self.classify()

    @cached_property
    def explainer(self) -> Explainer:
        options = self.options
        return Explainer(
            self._bundle,
            options.provider,
            options.threads,
            precision=options.precision,
            classifier=self.classifier,
        )

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions; an image whose logits are not finite is a wrong one."""
        return None if self.labels is None else float(np.mean(self.prediction.target == self.labels))

    def timed(self, stage: str, call: Callable[[], Result], share: int = 1) -> Result:
        """Return the call's result; note its duration, divided by ``share``."""
        start = time.perf_counter_ns()
        result = call()
        self.milliseconds.setdefault(stage, []).append((time.perf_counter_ns() - start) / 1e6 / share)
        return result

    def each(self, stage: str, call: Callable[[int], Result]) -> list[Result]:
        """Return the results of ``call`` for every image, timed one by one after a warm-up."""
        for _ in range(WARM_UP):
            call(0)
        results = []
        for index in range(len(self.images)):
            results.append(self.timed(stage, partial(call, index)))
            self._tell(stage, index + 1, len(self.images))
        return results

    def classify(self) -> Prediction:
        one = self.each("classify", lambda index: self.classifier.predict(self.images[index : index + 1]))
        return interpret(np.concatenate(one))

    def audit(self, method: str) -> ExplainerAudit:
        """Explain all images with one method and measure the explanations."""
        explained = self.explain(method)
        values = self.each("gini", lambda index: gini(explained.saliency[index : index + 1]))
        return ExplainerAudit(
            preset=explained.preset,
            invalid=int(np.count_nonzero(~explained.valid)),
            gini=distribution(np.where(explained.valid, np.concatenate(values), np.nan)),
            gradient_norm=distribution(explained.norm),
            completeness_gap=None if explained.gap is None else distribution(explained.gap),
            road=self.road(method, explained) if self.options.road else None,
        )

    def explain(self, method: str) -> Explained:
        """Explain the predicted class of every image, one image per call."""
        # An image without a prediction is explained for class 0, to time it; its result is void.
        target = np.maximum(self.prediction.target, 0)
        options = self.options

        def one(index: int) -> Explanation:
            part = slice(index, index + 1)
            return self.explainer.explain(self.images[part], method, target[part], options.seed, preset=options.presets)

        found = self.each(method, one)
        valid = np.concatenate([each.valid for each in found]) & self.prediction.valid
        saliency = np.concatenate([each.saliency() for each in found])
        norm = np.concatenate([gradient_norm(each.attribution) for each in found]).astype(np.float64)
        gaps = [each.completeness_gap for each in found if each.completeness_gap is not None]
        saliency[~valid], norm[~valid] = np.nan, np.nan
        gap = np.where(valid, np.concatenate(gaps), np.nan) if gaps else None
        return Explained(preset=found[0].preset, saliency=saliency, norm=norm, gap=gap, valid=valid)

    def road(self, method: str, explained: Explained) -> RoadAudit | None:
        """Return both ROAD curves of one explainer, or None where no image qualifies."""
        measure: Measure = "agreement" if self.labels is None else "accuracy"
        labels = self.prediction.target if self.labels is None else self.labels
        chosen = explained.valid
        if self.options.road_images == "correct":
            chosen = chosen & (self.prediction.target == labels)
        if not chosen.any():
            return None
        count = int(np.count_nonzero(chosen))
        curves = {}
        for done, order in enumerate(ORDERS, start=1):
            call = partial(
                road,
                self.classifier.predict,
                self.images[chosen],
                explained.saliency[chosen],
                labels[chosen],
                self.options.percentages,
                order,
                self.options.seed,
            )
            curves[order] = self.timed("road", call, share=count)
            self._tell(f"ROAD of {method}", done, len(ORDERS))
        return RoadAudit(
            measure=measure,
            images=count,
            percentages=self.options.percentages,
            combined=combined(curves["morf"], curves["lerf"]),
            areas=tuple(image_areas(curves["morf"], curves["lerf"]).tolist()),
            **{name: value for order in ORDERS for name, value in curve_fields(order, curves[order]).items()},
        )


def curve_fields(order: str, curve: RoadCurve) -> dict[str, Any]:
    """Return the fields of :class:`RoadAudit` that belong to one curve."""
    low, high = curve.accuracy_interval().tolist()
    return {
        order: tuple(curve.accuracy.tolist()),
        f"{order}_interval": tuple(zip(low, high, strict=True)),
        f"{order}_probability": tuple(curve.mean_probability.tolist()),
        f"{order}_auc": curve.auc,
        f"{order}_auc_interval": curve.auc_interval(),
    }


def distribution(values: NDArray[np.float64]) -> Distribution:
    """Return values [N] with None in place of NaN, and their mean."""
    known = values[np.isfinite(values)]
    return Distribution(
        values=tuple(float(value) if np.isfinite(value) else None for value in values),
        mean=float(known.mean()) if known.size else None,
        undefined=len(values) - known.size,
    )
