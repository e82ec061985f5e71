"""Measure one trained network as the study asks: accuracy, and of every explainer gradient norm, Gini and ROAD.

Captum explains; the metrics are the device runtime's own, so that desktop and vehicle figures compare.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_runtime.audit import distribution
from edge_runtime.errors import DataError
from edge_runtime.manifest import PRESETS, ExplainerPreset, InputSpec
from edge_runtime.metrics import ORDERS, gini, gradient_norm, reduce_channels, road
from edge_runtime.preprocess import normalize
from toolkit import evaluation
from toolkit.adversarial import PgdConfig
from toolkit.data import Dataset, Split
from toolkit.report.summary import Examples
from toolkit.steps import out_of_memory
from toolkit.study.results import Explained, Road, text
from toolkit.study.schema import Evaluation

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
Floats = NDArray[np.float32]
Stage = Callable[[str, int, int], None]  # stage, done, of how many
ROBUST_REACH = 2.0  # how far the steps of the robustness test reach together, in radii of the ball
BATCH = 64  # images explained together: 50 sample points of each are gradients of 3,200 images


@dataclass(frozen=True)
class Measured:
    """What :func:`measure` found; fields as in :class:`toolkit.study.results.CellResult`."""

    accuracy: float
    correct: str
    robust_accuracy: float | None
    images: tuple[int, ...]
    explainers: dict[str, Explained]
    examples: Examples | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Work:
    """The images of one cell [N, C, H, W], what the network says of them, and the clock."""

    model: nn.Module
    spec: InputSpec
    images: Floats
    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    options: Evaluation
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)


def require_test_images(dataset: Dataset) -> None:
    """Raise DataError for a data set without test images: nothing could be measured on it."""
    if not len(dataset.test):
        raise DataError(f"{dataset.spec} has no test split; choose a split that holds out test images")


def chosen(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return ``limit`` of the numbers below ``count``, drawn by ``seed``, ascending: the same for every network."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def measure(
    model: nn.Module, spec: InputSpec, dataset: Dataset, options: Evaluation, preset: str, stage: Stage
) -> Measured:
    """Measure ``model`` on the test images of ``dataset``; ``preset`` names the explainers' parameters.

    Explanations are of the predicted class, ROAD of the images among them that are classified correctly (PROTOCOL).
    """
    require_test_images(dataset)
    test, seconds = dataset.test, dict[str, float]()
    counted = test.take(chosen(len(test), options.accuracy_images, options.seed))
    started = time.perf_counter()
    right = _predicted(model, counted, spec) == counted.labels
    robust = _robust(model, test, spec, options, stage)
    seconds["accuracy"] = time.perf_counter() - started
    numbers = chosen(len(test), options.images, options.seed)
    sample = test.take(numbers)
    work = _Work(
        model=model,
        spec=spec,
        images=normalize(sample.images, spec),
        numbers=numbers,
        labels=sample.labels,
        predicted=_predicted(model, sample, spec),
        options=options,
        stage=stage,
        seconds=seconds,
    )
    saliency: dict[str, Floats] = {}
    explainers = {}
    for name in options.explainers:
        explainers[name], saliency[name] = _explain(work, PRESETS[preset][name])
    return Measured(
        accuracy=float(right.mean()),
        correct=text(right),
        robust_accuracy=robust,
        images=tuple(numbers.tolist()),
        explainers=explainers,
        examples=_examples(dataset, sample, work.predicted, saliency, options.shown),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _predicted(model: nn.Module, split: Split, spec: InputSpec) -> NDArray[np.int64]:
    batch = evaluation.BATCH
    parts = [
        evaluation.predict(model, split.images[start : start + batch], spec).argmax(1)
        for start in range(0, len(split), batch)
    ]
    return np.concatenate(parts)


def _robust(model: nn.Module, test: Split, spec: InputSpec, options: Evaluation, stage: Stage) -> float | None:
    """Return the accuracy under PGD on the pixel scale."""
    if not options.robust_eps:
        return None
    step = ROBUST_REACH * options.robust_eps / options.robust_steps
    attack = PgdConfig(eps=options.robust_eps, step=step, steps=options.robust_steps)
    attacked = test.take(chosen(len(test), options.robust_images, options.seed))
    stage("robust accuracy", 0, 1)
    found = evaluation.robust_accuracy(model, attacked, spec, attack, options.seed)
    stage("robust accuracy", 1, 1)
    return found


def _explain(work: _Work, preset: ExplainerPreset) -> tuple[Explained, Floats]:
    """Return one explainer's measures and its saliency maps [N, H, W]."""
    started = time.perf_counter()
    count = len(work.images)
    attribution = np.empty_like(work.images)
    size = BATCH
    start = 0
    while start < count:
        part = slice(start, start + size)
        try:
            attribution[part] = evaluation.captum_explain(
                work.model, work.images[part], preset, work.predicted[part], work.spec, work.options.seed + start
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
            size //= 2
            logger.warning("out of memory: %s explains %d images at a time from here on", preset.method, size)
            continue
        start += size
        work.stage(f"explaining ({preset.method})", min(start, count), count)
    saliency = reduce_channels(attribution, preset.reduction)
    valid: NDArray[np.bool_] = np.isfinite(np.abs(attribution).max(axis=(1, 2, 3)))  # a NaN anywhere is the maximum
    work.seconds[preset.method] = time.perf_counter() - started
    started = time.perf_counter()
    found = Explained(
        gini=distribution(np.where(valid, gini(saliency), np.nan)),
        gradient_norm=distribution(np.where(valid, gradient_norm(attribution).astype(np.float64), np.nan)),
        road=_road(work, preset.method, saliency, valid),
    )
    work.seconds[f"road_{preset.method}"] = time.perf_counter() - started
    return found, saliency


def _road(work: _Work, method: str, saliency: Floats, valid: NDArray[np.bool_]) -> Road | None:
    right = valid & (work.predicted == work.labels)
    levels = work.options.road
    if not right.any() or not levels:
        return None
    kept: dict[str, tuple[str, ...]] = {}
    for done, order in enumerate(ORDERS, start=1):
        curve = road(
            evaluation.classify(work.model),
            work.images[right],
            saliency[right],
            work.labels[right],
            levels,
            order,
            work.options.seed,
        )
        kept[order] = tuple(text(row) for row in curve.correct)
        work.stage(f"ROAD ({method})", done, len(ORDERS))
    numbers = tuple(work.numbers[right].tolist())
    return Road(percentages=levels, images=numbers, morf=kept["morf"], lerf=kept["lerf"])


def _examples(
    dataset: Dataset, sample: Split, predicted: NDArray[np.int64], saliency: dict[str, Floats], shown: int
) -> Examples | None:
    """Return images of different classes, as far as there are, with their maps."""
    if not shown or not saliency:
        return None
    _, firsts = np.unique(sample.labels, return_index=True)
    # Spread over the classes: neighbours in the list of labels look alike.
    few = firsts[np.linspace(0, len(firsts) - 1, min(shown, len(firsts))).round().astype(int)]
    return Examples(
        images=sample.images[few],
        saliency={name: maps[few].astype(np.float32) for name, maps in saliency.items()},
        labels=tuple(dataset.labels[label] for label in sample.labels[few]),
        predicted=tuple(dataset.labels[label] for label in predicted[few]),
    )
