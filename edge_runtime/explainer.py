"""Explain predictions with a bundle's ``explainer.onnx``: the engine takes the gradients, NumPy adds up its runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_runtime.bundle import EXPLAINER, Bundle
from edge_runtime.classifier import INVALID, Classifier, check_interface, finite_rows
from edge_runtime.errors import BundleError, InputError, unknown
from edge_runtime.manifest import FP32, PRESETS, ExplainerPreset
from edge_runtime.metrics import reduce_channels
from edge_runtime.path import METHODS, Noise, SamplePath, baseline_image, even_step, sample_path
from edge_runtime.preprocess import check_batch
from edge_runtime.provider_choice import choose
from edge_runtime.sessions import DEFAULT_PROVIDER, Run, default_chunk, largest_chunk, open_session, run_session

DEFAULT_METHOD = "vg"
DEFAULT_PRESETS = "paper"
# Adaptive IG stops here: a gap that so many nodes leave open is due to kinks, and doubling again would not close it.
MAX_SAMPLES = 1024

INPUTS = {"image", "target", "baseline", "scale", "weight", "noise"}
AGGREGATES = {"signed": "attribution", "magnitude": "magnitude"}  # preset's word -> the graph's output

Result = TypeVar("Result")
# Work that pauses before every run of the engine, so that its caller can do something more urgent in between.
Steps = Generator[None, None, Result]


@dataclass(frozen=True)
class Explanation:
    """Attributions of N images.

    ``logits`` float32 [N, K] of the images; ``target`` int64 [N], the explained class; ``attribution`` float32
    [N, C, H, W]; ``samples`` int64 [N], sample points used; ``completeness_gap`` float64 [N] for IG of signed
    gradients, |sum of the attribution - (F(x) - F(baseline))|, else None; ``valid`` bool [N].

    Where logits or attribution hold NaN or infinity, ``valid`` is False and the whole attribution is NaN; ``target``
    is -1 where the classifier named no class.
    """

    logits: NDArray[np.float32]
    target: NDArray[np.int64]
    attribution: NDArray[np.float32]
    method: str
    preset: ExplainerPreset
    seed: int
    samples: NDArray[np.int64]
    completeness_gap: NDArray[np.float64] | None
    valid: NDArray[np.bool_]

    def saliency(self) -> NDArray[np.float32]:
        """Reduce the channels as the preset says: float32 [N, H, W]."""
        return reduce_channels(self.attribution, self.preset.reduction)


@dataclass(frozen=True)
class _Request:
    """Checked arguments: ``images`` [N, C, H, W], ``target`` [N] in range, sample points per engine run."""

    images: NDArray[np.float32]
    target: NDArray[np.int64]
    seed: int
    chunk: int


@dataclass(frozen=True)
class _Outcome:
    """``logits`` [N, K] at the images, ``total`` [N, C, H, W] and ``samples`` [N]; ``gap`` and ``span`` [N] for IG.

    ``span`` is |F(x) - F(baseline)|, the size that a gap is small against.
    """

    logits: NDArray[np.float32]
    total: NDArray[np.float32]
    samples: NDArray[np.int64]
    gap: NDArray[np.float64] | None = None
    span: NDArray[np.float64] | None = None


class Explainer:
    """A bundle's explainers in one of its precisions, on one execution provider (see ``provider_choice.CHOICES``).

    ``classifier`` decides the class where a call names none; without one, the explainer opens its own, of the same
    precision, when it must. An FP32 explainer with an INT8 classifier explains the original at the other's decision.
    ``provider`` is the one in use, ``run`` runs the engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = DEFAULT_PROVIDER,
        threads: int | None = None,
        *,
        precision: str = FP32,
        classifier: Classifier | None = None,
        run: Run = run_session,
    ) -> None:
        self.bundle = bundle
        self.precision = precision
        self.provider = provider = choose(bundle, provider, threads, precision=precision).provider
        file = bundle.file(EXPLAINER, precision)
        self.session = open_session(bundle, file, provider, threads, integers=False)
        check_interface(self.session, file, INPUTS, {"logits", *AGGREGATES.values()})
        self._spec = bundle.manifest.input
        self._settings = (provider, threads)
        self._run = run
        self._baseline_logits: dict[str, NDArray[np.float32]] = {}
        if classifier is not None:
            self.classifier = classifier

    @cached_property
    def classifier(self) -> Classifier:
        return Classifier(self.bundle, *self._settings, precision=self.precision, run=self._run)

    def explain(
        self,
        images: NDArray[np.float32],
        method: str = DEFAULT_METHOD,
        target: ArrayLike | None = None,
        seed: int = 0,
        chunk: int | None = None,
        preset: ExplainerPreset | str | None = None,
    ) -> Explanation:
        """Attribute the logit of ``target`` to the pixels of normalised images float32 [N, C, H, W].

        ``method``: vg, ig or sg. ``target``: one class, N classes, or None for the predicted ones. ``seed``: of the
        noise. ``chunk``: sample points (images times path points) per engine run; bounds the memory, leaves the
        result. ``preset``: parameters, or the name of a family of them ("paper", "authors-code"), instead of the
        bundle's own.

        Raises InputError for an unknown method or preset, parameters that cannot be, images that
        ``preprocess.check_batch`` refuses, a class out of range, a negative seed and a chunk below 1.
        """
        return finish(self.explain_steps(images, method, target, seed, chunk, preset))

    def explain_steps(
        self,
        images: NDArray[np.float32],
        method: str = DEFAULT_METHOD,
        target: ArrayLike | None = None,
        seed: int = 0,
        chunk: int | None = None,
        preset: ExplainerPreset | str | None = None,
    ) -> Steps[Explanation]:
        """Do what :meth:`explain` does, pausing before every run of the engine; the generator returns the result."""
        parameters = self.preset(method, preset)
        check_preset(parameters)
        check_batch(images, self._spec)
        classes = self._classes(images, target)
        # An image without a class still goes through the engine, so that batches keep their shape; its result is void.
        request = _Request(images, np.where(classes == INVALID, 0, classes), seed, self._chunk(chunk))
        outcome = yield from self._adapt(request, parameters)
        valid = (classes != INVALID) & finite_rows(outcome.logits) & finite_rows(outcome.total)
        return Explanation(
            logits=outcome.logits,
            target=classes,
            attribution=np.where(valid[:, None, None, None], outcome.total, np.float32(np.nan)),
            method=method,
            preset=parameters,
            seed=seed,
            samples=outcome.samples,
            completeness_gap=None if outcome.gap is None else np.where(valid, outcome.gap, np.nan),
            valid=valid,
        )

    def preset(self, method: str, preset: ExplainerPreset | str | None = None) -> ExplainerPreset:
        """Return the parameters that :meth:`explain` uses for ``method``; raises InputError for unknown names."""
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        if isinstance(preset, str):
            if preset not in PRESETS:
                raise unknown("preset", preset, PRESETS)
            return PRESETS[preset][method]
        if preset is None:
            return self.bundle.manifest.explainers.get(method, PRESETS[DEFAULT_PRESETS][method])
        if preset.method != method:
            raise InputError(f"the preset is for method {preset.method}, not {method}; pass a preset of that method")
        return preset

    def _chunk(self, chunk: int | None) -> int:
        if chunk is None:
            return default_chunk(self.provider, self._spec)
        if chunk < 1:
            raise InputError(f"chunk is {chunk}; give at least 1 sample point per engine run")
        return min(chunk, largest_chunk(self.provider, self._spec))

    def _classes(self, images: NDArray[np.float32], target: ArrayLike | None) -> NDArray[np.int64]:
        """Return the class to explain [N]: the predicted one (-1: none), or the given one, checked."""
        if target is None:
            return self.classifier.classify(images).target
        return check_target(target, len(images), self.bundle.labels)

    def _adapt(self, request: _Request, preset: ExplainerPreset) -> Steps[_Outcome]:
        """Evaluate ``preset``; with a tolerance, double the samples of every image whose gap is still too large."""
        outcome = yield from self._evaluate(request, preset)
        while 2 * preset.samples <= MAX_SAMPLES and (left := unfinished(outcome, preset)).any():
            preset = msgspec.structs.replace(preset, samples=2 * preset.samples)
            part = _Request(request.images[left], request.target[left], request.seed, request.chunk)
            newer = yield from self._evaluate(part, preset)
            outcome = merge(outcome, left, newer)
        return outcome

    def _evaluate(self, request: _Request, preset: ExplainerPreset) -> Steps[_Outcome]:
        """Evaluate the path of ``preset`` once for all images."""
        points = sample_path(preset)
        baseline = baseline_image(preset, self._spec)
        logits, total = yield from self._walk(request, points, baseline, preset.aggregate)
        samples = np.full(len(total), preset.samples, np.int64)
        if not points.times_difference:
            return _Outcome(logits, total.astype(np.float32), samples)
        total *= request.images - baseline
        attribution = total.astype(np.float32)
        if preset.aggregate != "signed":  # magnitudes do not add up to a difference of logits
            return _Outcome(logits, attribution, samples)
        rows = np.arange(len(logits))
        here = logits[rows, request.target].astype(np.float64)
        span = here - self._logits_of_baseline(preset)[request.target]
        gap = np.abs(total.sum(axis=(1, 2, 3)) - span)
        return _Outcome(logits, attribution, samples, gap, np.abs(span))

    def _logits_of_baseline(self, preset: ExplainerPreset) -> NDArray[np.float32]:
        """Return F(baseline), float32 [K]; it is the same for every image, so it is computed once."""
        if preset.baseline not in self._baseline_logits:
            image = baseline_image(preset, self._spec)[None]
            here = sample_path(ExplainerPreset(method="vg"))
            request = _Request(image, np.zeros(1, np.int64), seed=0, chunk=1)
            self._baseline_logits[preset.baseline] = finish(self._walk(request, here, image[0], "signed"))[0][0]
        return self._baseline_logits[preset.baseline]

    def _walk(
        self, request: _Request, points: SamplePath, baseline: NDArray[np.float32], aggregate: str
    ) -> Steps[tuple[NDArray[np.float32], NDArray[np.float64]]]:
        """Return the logits [N, K] at each image and the weighted sum of gradients float64 [N, C, H, W].

        Both images and path points are split, so that no engine run holds more than ``chunk`` sample points.
        """
        total = np.zeros(request.images.shape, np.float64)
        logits = np.empty((len(request.images), len(self.bundle.labels)), np.float32)
        for start in range(0, len(request.images), request.chunk):
            block = slice(start, start + request.chunk)
            images, target = request.images[block], request.target[block]
            noise = Noise(request.seed, images.shape[1:])
            step = even_step(len(points.scale), max(1, request.chunk // len(images)))
            for first in range(0, len(points.scale), step):
                part = slice(first, first + step)
                feeds: dict[str, NDArray[Any]] = {
                    "image": images,
                    "target": target,
                    "baseline": np.ascontiguousarray(np.broadcast_to(baseline, images.shape)),
                    "scale": points.scale[part],
                    "weight": points.weight[part],
                    "noise": noise.draw(points.sigma[part]),
                }
                yield
                found, gradient = self._run(self.session, ["logits", AGGREGATES[aggregate]], feeds)
                total[block] += gradient
                if not first:
                    logits[block] = first_point(found, logits[block].shape)
        return logits, total


def finish(steps: Steps[Result]) -> Result:
    """Take all steps at once and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def first_point(logits: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the logits [n, K] at the first of k sample points from the graph's [n * k, K] (row i * k + point)."""
    if logits.ndim != 2 or logits.shape[1] != shape[1] or len(logits) % shape[0]:
        raise BundleError(f"{EXPLAINER} returns {list(logits.shape)} logits for {shape[1]} labels; export it again")
    return logits[:: len(logits) // shape[0]]


def unfinished(outcome: _Outcome, preset: ExplainerPreset) -> NDArray[np.bool_]:
    """Return bool [N]: where the completeness gap exceeds the preset's tolerance."""
    if preset.tolerance is None or outcome.gap is None or outcome.span is None:
        return np.zeros(len(outcome.logits), np.bool_)
    # A gap that is NaN is a failure that more samples cannot mend; it compares as False.
    return outcome.gap > preset.tolerance * outcome.span


def merge(outcome: _Outcome, where: NDArray[np.bool_], newer: _Outcome) -> _Outcome:
    """Replace the images ``where`` [N] of ``outcome`` by those of ``newer``."""
    merged = {}
    for field in dataclasses.fields(_Outcome):
        values = getattr(outcome, field.name).copy()
        values[where] = getattr(newer, field.name)
        merged[field.name] = values
    return _Outcome(**merged)


def check_preset(preset: ExplainerPreset) -> None:
    """Raise InputError for numbers that the schema's types allow but no path can have."""
    limits = {"samples": (1, math.inf), "sigma": (0.0, math.inf), "tolerance": (0.0, math.inf)}
    for name, (least, below) in limits.items():
        value = getattr(preset, name)
        if value is not None and not least <= value < below:
            raise InputError(f"{name} is {value}; give a finite number of at least {least:g}")


def check_target(target: ArrayLike, count: int, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Return ``target`` as int64 [count]; raises InputError for another type, number of classes, or range."""
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu" or classes.shape not in ((), (count,)):
        raise InputError(f"target is {classes.dtype} {list(classes.shape)}; give one whole number or {count} of them")
    wrong = classes[(classes < 0) | (classes >= len(labels))]
    if wrong.size:
        raise InputError(f"target {wrong.flat[0]} is out of range; the classes are 0..{len(labels) - 1}")
    return np.broadcast_to(classes, (count,)).astype(np.int64)
