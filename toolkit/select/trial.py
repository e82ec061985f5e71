"""Make and measure one candidate: a run, its bundle, and what the bundle costs and gives on this machine.

Everything here sees training and validation images only. Test images would be used up by the search: a network that was
chosen for its figures on them has figures that are too good.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.audit import AuditOptions, audit_bundle
from edge_runtime.benchmark import BenchmarkOptions, Measurement, benchmark_bundles
from edge_runtime.bundle import CLASSIFIER, Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import DataError, RunError
from edge_runtime.preprocess import normalize
from toolkit import pipeline, runs, training, workplace
from toolkit.data import Dataset, Split
from toolkit.models import CHANNEL_MULTIPLE
from toolkit.recipes import TrainConfig
from toolkit.select.measures import Measures
from toolkit.select.space import BASELINE
from toolkit.select.store import Trial

AT_ONCE = 1024  # images normalised together: as float32 of 32x32 pixels 12 MB
TIMINGS = 3
"""Benchmarks of a candidate, until one is steady."""
LONGER = 2
"""Lengths of a trial's benchmark that a recommendation is confirmed with."""
logger = logging.getLogger(__name__)

Step = Callable[[str, float], None]  # what, and the share 0..1 of it that is done


@dataclass(frozen=True)
class Measuring:
    """How candidates are measured: explainer and sample of images for Gini and ROAD, seconds of each benchmark."""

    explainer: str
    images: int
    seconds: float
    provider: str
    threads: int | None


@dataclass(frozen=True)
class Setup:
    """What the search makes candidates from.

    ``dataset`` has no test images (:func:`without_test`). ``origin`` is the run to begin with, None to train it.
    """

    dataset: Dataset
    architecture: str
    width: float
    training: TrainConfig
    fine_tuning: TrainConfig
    origin: Path | None
    measuring: Measuring


def without_test(dataset: Dataset) -> Dataset:
    """Return ``dataset`` without its test images; raises DataError where then nothing is held out."""
    if not len(dataset.validation):
        raise DataError(f"{dataset.spec} has no validation images to choose by; use another --split")
    return replace(dataset, test=dataset.test.take(np.zeros(len(dataset.test), bool)))


def make_run(trial: Trial, baseline: Trial, setup: Setup, step: Step) -> None:
    """Train or prune the candidate's network into ``trial.run``, from its last checkpoint where there is one.

    A network that is there already stays, unless it is damaged.
    """
    partial = runs.partial_folder(trial.run)
    if runs.is_made(trial.run):
        shutil.rmtree(partial, ignore_errors=True)  # killed between the run's appearance and this
        return
    report = _training_report(step)
    if partial.is_dir():
        try:
            training.resume(trial.run, setup.dataset, progress=report)
            return
        except RunError as error:
            if isinstance(error, training.TrainingStoppedError | training.DivergedError) or workplace.disk_full(error):
                raise
            logger.warning("the checkpoint cannot be used (%s); training starts over", error)
    _train(trial, baseline, setup, report)


def _train(trial: Trial, baseline: Trial, setup: Setup, report: training.Report) -> None:
    candidate = trial.candidate
    if candidate == BASELINE and setup.origin is not None:
        model, info = runs.load(setup.origin)
        runs.save(trial.run, model, info, force=True, history=runs.load_history(setup.origin))
    elif candidate == BASELINE or candidate.timing == "pre":
        pipeline.train(
            setup.dataset,
            trial.run,
            setup.architecture,
            setup.training,
            width=setup.width,
            prune=None if candidate == BASELINE else candidate.pruning(),
            force=True,
            progress=report,
        )
    else:
        config = replace(setup.fine_tuning, epochs=candidate.fine_tune) if candidate.fine_tune else None
        pipeline.prune(
            baseline.run,
            trial.run,
            candidate.pruning(),
            dataset=setup.dataset,
            fine_tune=config,
            force=True,
            progress=report,
        )


def export(trial: Trial, setup: Setup) -> Bundle:
    """Return the candidate's bundle, exported from its run; its audit set holds validation images."""
    audited = pipeline.Audited(setup.dataset, setup.measuring.images, baselines=False)
    return open_bundle(pipeline.export(trial.run, trial.bundle, audited, force=True))


def require_pruned(bundle: Bundle, baseline: Bundle) -> None:
    """Raise RunError for a candidate that is the unpruned network again: so few channels that rounding spares them."""
    mine, whole = bundle.manifest, baseline.manifest
    if (mine.parameters, mine.nonzero_parameters) == (whole.parameters, whole.nonzero_parameters):
        raise RunError(f"nothing was pruned: the share is too small for channels in multiples of {CHANNEL_MULTIPLE}")


def measure(bundle: Bundle, beside: Bundle | None, setup: Setup, step: Step) -> Measures:
    """Measure ``bundle`` on validation images, and its latency in alternation with the bundle ``beside``.

    Raises RunError for a network that cannot be judged: nothing classified right, or no map with any saliency.
    """
    how = setup.measuring
    own, other = time_bundles(bundle, beside, how, how.seconds, step)
    accuracy = bundle_accuracy(bundle, setup.dataset.validation, how)
    gini, road_auc, interval = explain_bundle(bundle, how, step)
    manifest = bundle.manifest
    entry = manifest.files[CLASSIFIER]
    return Measures(
        accuracy=accuracy,
        images=len(setup.dataset.validation),
        gini=gini,
        road_auc=road_auc,
        road_auc_interval=interval,
        **_latency(own, other),
        size_bytes=entry.size,
        classifier_sha256=entry.sha256,
        parameters=manifest.parameters or 0,
        nonzero_parameters=manifest.nonzero_parameters or 0,
        macs=manifest.macs or 0,
    )


def time_bundles(
    bundle: Bundle, beside: Bundle | None, how: Measuring, seconds: float, step: Step
) -> tuple[Measurement, Measurement]:
    """Return the latency of one classification by ``bundle``, and by ``beside`` in alternation (or the same again).

    What the benchmark calls unsteady is measured again, a few times; then the one with the least other load counts.
    """
    found = []
    for _ in range(TIMINGS):
        found.append(_time_once(bundle, beside, how, seconds, step))
        if found[-1][0].steady is not False:
            return found[-1]
    return min(found, key=lambda pair: pair[0].others or 0.0)


def _time_once(
    bundle: Bundle, beside: Bundle | None, how: Measuring, seconds: float, step: Step
) -> tuple[Measurement, Measurement]:
    options = BenchmarkOptions(
        stages=("classify",), seconds=seconds, cold_starts=0, provider=how.provider, threads=how.threads
    )
    bundles = [bundle] if beside is None else [beside, bundle]
    started, expected = time.perf_counter(), seconds * len(bundles)

    def progress(stage: str, done: int, total: int) -> None:
        step("timing", min(1.0, (time.perf_counter() - started) / expected))

    found = benchmark_bundles(bundles, options, progress).result.measurements
    return found[-1], found[0]


def timed_again(bundle: Bundle, beside: Bundle, setup: Setup, measures: Measures, step: Step) -> Measures:
    """Return ``measures`` with the latency of a fresh and longer benchmark."""
    own, other = time_bundles(bundle, beside, setup.measuring, LONGER * setup.measuring.seconds, step)
    return msgspec.structs.replace(measures, **_latency(own, other))


def _latency(own: Measurement, other: Measurement) -> dict[str, Any]:
    return {
        "latency_ms": own.latency.p50,
        "latency_interval": own.latency.intervals["p50"],
        "baseline_ms": other.latency.p50,
        "steady": own.steady,
        "moved": own.moved,
    }


def bundle_accuracy(bundle: Bundle, split: Split, how: Measuring) -> float:
    """Return the share of ``split`` that the bundle's classifier gets right."""
    classifier = Classifier(bundle, how.provider, how.threads)
    right = 0
    for start in range(0, len(split), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        predicted = classifier.classify(normalize(split.images[part], bundle.manifest.input)).target
        right += int((predicted == split.labels[part]).sum())
    return right / len(split)


def explain_bundle(bundle: Bundle, how: Measuring, step: Step) -> tuple[float, float, tuple[float, float]]:
    """Return mean Gini, area under the MoRF curve and its interval, on the bundle's own audit set."""
    options = AuditOptions(methods=(how.explainer,), provider=how.provider, threads=how.threads)
    result = audit_bundle(bundle, options=options, progress=lambda stage, done, total: step(stage, done / total))
    found = result.explainers[how.explainer]
    if found.road is None:
        raise RunError(f"none of {result.images} audited images is classified right: it has not learnt anything")
    if found.gini.mean is None:
        raise RunError(f"its saliency is zero on all of {result.images} audited images: nothing explains it")
    return found.gini.mean, found.road.morf_auc, found.road.morf_auc_interval


def _training_report(step: Step) -> training.Report:
    def report(state: training.Progress) -> None:
        done = ((state.epoch - 1) * state.steps + state.step) / (state.epochs * state.steps)
        step(f"training, epoch {state.epoch} of {state.epochs}, loss {state.loss:.3f}", done)
        if state.step == state.steps:
            logger.info("epoch %d of %d: loss %.4f", state.epoch, state.epochs, state.loss)

    return report
