"""The drift report: a precision of a bundle against its FP32, explainer by explainer, on the device runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from calibration.images import LabelledImages
from calibration.options import DriftOptions
from calibration.probe import mean_correlation
from calibration.ranges import Progress
from calibration.sampling import balanced_sample
from edge_runtime.bundle import CLASSIFIER, EXPLAINER, Bundle, precision_file
from edge_runtime.classifier import Classifier
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import FP32
from edge_runtime.metrics import gini, road
from edge_runtime.metrics.road import RESAMPLES, RoadCurve, area
from edge_runtime.preprocess import normalize

FORMAT = 1
TOP = 0.1  # share of pixels whose overlap is measured
LATENCY_CALLS = 50

Array = npt.NDArray[Any]
# Gradients of the quantised network, or those of the FP32 network at the quantised network's decision.
Mode = Literal["through", "fp32"]


class ExplainerDrift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One explainer against FP32, means over images.

    ``gradient`` "through": of the quantised network, straight through its roundings; "fp32": of the original, for the
    class that the quantised network decides on. ``top_iou``: overlap of the tenth most salient pixels (intersection
    over union). ``gini_change`` and ``road_auc_change`` are differences to FP32, ``road_interval`` the 95 % bootstrap
    interval over images of the latter, which is over ``road_images`` that FP32 classifies correctly.
    """

    method: str
    gradient: Mode
    images: int
    rank_correlation: float
    top_iou: float
    cosine: float
    gini_change: float
    road_auc: float
    road_auc_change: float
    road_interval: tuple[float, float]
    road_images: int


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A precision against FP32 over ``images`` held-out images; ``latency`` in milliseconds and ``size`` in bytes.

    ``latency`` is the median of single images in alternation with FP32, by precision and stage; ``size`` is by file.
    """

    format: int
    bundle: str
    precision: str
    images: int
    accuracy: dict[str, float]
    flipped: int
    drifts: tuple[ExplainerDrift, ...]
    latency: dict[str, dict[str, float]]
    size: dict[str, int]


@dataclass(frozen=True)
class _Subject:
    """One side of the comparison on the images to explain: ``attribution`` [N, C, H, W], ``saliency`` [N, H, W]."""

    saliency: Array
    attribution: Array
    curve: RoadCurve


def measure_drift(
    bundle: Bundle,
    precision: str,
    data: LabelledImages,
    options: DriftOptions | None = None,
    progress: Progress | None = None,
) -> Drift:
    """Compare ``precision`` of ``bundle`` with FP32 on held-out ``data``; IG and SG of a large network take minutes."""
    return _Comparison(bundle, precision, data, options or DriftOptions(), progress).report()


class _Comparison:
    def __init__(
        self, bundle: Bundle, precision: str, data: LabelledImages, options: DriftOptions, progress: Progress | None
    ) -> None:
        self.bundle, self.precision, self.options, self.progress = bundle, precision, options, progress
        order = balanced_sample(data.labels, len(data), seed=options.seed)
        self.images = normalize(data.images[order], bundle.manifest.input)
        self.labels = data.labels[order]
        self.count = min(options.images, len(data))
        self.classifiers = {name: Classifier(bundle, precision=name) for name in (FP32, precision)}
        self.explainers = {
            name: Explainer(bundle, precision=name, classifier=classifier)
            for name, classifier in self.classifiers.items()
        }
        self.target = {name: each.classify(self.images).target for name, each in self.classifiers.items()}
        self.done = 0

    def report(self) -> Drift:
        drifts = [drift for method in self.options.methods for drift in self.compare(method)]
        files = [precision_file(name, each) for name in (CLASSIFIER, EXPLAINER) for each in self.classifiers]
        return Drift(
            format=FORMAT,
            bundle=self.bundle.manifest.name,
            precision=self.precision,
            images=len(self.images),
            accuracy={name: float((target == self.labels).mean()) for name, target in self.target.items()},
            flipped=int((self.target[FP32] != self.target[self.precision]).sum()),
            drifts=tuple(drifts),
            latency=self.latency(),
            size={file: self.bundle.manifest.files[file].size for file in files},
        )

    def compare(self, method: str) -> list[ExplainerDrift]:
        """Return the drift of one explainer in both modes."""
        plain = self.subject(method, FP32, FP32)
        through = self.subject(method, self.precision, self.precision)
        # the FP32 gradient at the other's decision is FP32's own, but where the decision flipped
        flipped = np.flatnonzero(self.target[FP32][: self.count] != self.target[self.precision][: self.count])
        mixed = self.subject(method, FP32, self.precision, (plain, flipped))
        return [self.drift(method, "through", plain, through), self.drift(method, "fp32", plain, mixed)]

    def subject(
        self, method: str, gradient: str, decision: str, known: tuple[_Subject, Array] | None = None
    ) -> _Subject:
        """Explain ``decision``'s classes with ``gradient``'s explainer, and take ROAD with ``decision``'s classifier.

        ``known`` holds a result that differs only at some images.
        """
        where = np.arange(self.count) if known is None else known[1]
        shape = self.images[: self.count].shape
        attribution = np.zeros(shape, np.float32) if known is None else known[0].attribution.copy()
        saliency = np.zeros((shape[0], *shape[2:]), np.float32) if known is None else known[0].saliency.copy()
        if len(where):
            explained = self.explainers[gradient].explain(
                self.images[where], method, target=np.maximum(self.target[decision][where], 0), seed=self.options.seed
            )
            attribution[where], saliency[where] = explained.attribution, explained.saliency()
        chosen = np.flatnonzero(self.target[FP32][: self.count] == self.labels[: self.count])
        curve = road(
            self.classifiers[decision].predict,
            self.images[chosen],
            saliency[chosen],
            self.labels[chosen],
            seed=self.options.seed,
        )
        self.done += 1
        if self.progress is not None:
            self.progress("drift report", self.done, 3 * len(self.options.methods))
        return _Subject(saliency, attribution, curve)

    def drift(self, method: str, mode: Mode, plain: _Subject, other: _Subject) -> ExplainerDrift:
        return ExplainerDrift(
            method=method,
            gradient=mode,
            images=self.count,
            rank_correlation=mean_correlation(plain.saliency, other.saliency),
            top_iou=float(top_overlap(plain.saliency, other.saliency).mean()),
            cosine=float(cosine(plain.attribution, other.attribution).mean()),
            gini_change=float(np.nanmean(gini(other.saliency) - gini(plain.saliency))),
            road_auc=other.curve.auc,
            road_auc_change=other.curve.auc - plain.curve.auc,
            road_interval=paired_interval(plain.curve, other.curve, self.options.seed),
            road_images=len(plain.curve.correct),
        )

    def latency(self) -> dict[str, dict[str, float]]:
        """Return medians of single images, the precisions in alternation."""
        image, target = self.images[:1], self.target[FP32][:1]
        target = np.maximum(target, 0)
        calls: dict[str, dict[str, Callable[[], object]]] = {
            name: {
                "classify": lambda name=name: self.classifiers[name].predict(image),  # type: ignore[misc]
                "vg": lambda name=name: self.explainers[name].explain(image, "vg", target),  # type: ignore[misc]
            }
            for name in self.classifiers
        }
        found: dict[str, dict[str, float]] = {name: {} for name in calls}
        for stage in ("classify", "vg"):
            samples = alternate([calls[name][stage] for name in calls])
            found_now = {name: float(np.median(times)) for name, times in zip(calls, samples, strict=True)}
            for name, value in found_now.items():
                found[name][stage] = value
        return found


def alternate(calls: Sequence[Callable[[], object]], count: int = LATENCY_CALLS) -> list[list[float]]:
    """Time ``calls`` in turns, each after an unmeasured one of its own; return milliseconds by call."""
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(count):
        for times, call in zip(samples, calls, strict=True):
            call()
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e6)
    return samples


def top_overlap(a: Array, b: Array, share: float = TOP) -> npt.NDArray[np.float64]:
    """Return intersection over union of the ``share`` most salient pixels of each pair of maps [N, H, W]."""
    first, second = (_top(maps.reshape(len(maps), -1), share) for maps in (a, b))
    result: npt.NDArray[np.float64] = (first & second).sum(axis=1) / (first | second).sum(axis=1)
    return result


def _top(maps: Array, share: float) -> npt.NDArray[np.bool_]:
    count = max(1, round(share * maps.shape[1]))
    order = np.argsort(-maps, axis=1, kind="stable")[:, :count]
    chosen = np.zeros(maps.shape, np.bool_)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def cosine(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return the cosine of the angle between signed attributions [N, ...]; 0 where one of them vanishes."""
    first, second = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (a, b))
    scale = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    result: npt.NDArray[np.float64] = np.where(
        scale > 0, (first * second).sum(axis=1) / np.where(scale > 0, scale, 1), 0
    )
    return result


def paired_interval(plain: RoadCurve, other: RoadCurve, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the difference of two areas over the same images."""
    each = area(other.percentages, other.correct.astype(np.float64)) - area(
        plain.percentages, plain.correct.astype(np.float64)
    )
    counts = np.random.default_rng(seed).multinomial(len(each), np.full(len(each), 1 / len(each)), size=RESAMPLES)
    low, high = np.percentile(counts @ each / len(each), [2.5, 97.5])
    return float(low), float(high)
