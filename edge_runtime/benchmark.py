"""Latency of bundles on this device: every sample kept, bundles in alternation, the device read alongside."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.bundle import CLASSIFIER, Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.device import DeviceReadings, DeviceSampler
from edge_runtime.device_identity import DeviceIdentity, device_identity
from edge_runtime.errors import InputError, ProviderError, unknown
from edge_runtime.explainer import Explainer
from edge_runtime.latency import LatencySummary, summarize
from edge_runtime.manifest import FP32
from edge_runtime.provider_choice import CHOICES, PassedOver, choose_for
from edge_runtime.sessions import DEFAULT_PROVIDER
from edge_runtime.software import software_versions
from edge_runtime.steadiness import OtherLoad, judge
from edge_runtime.workload import STAGES, Call, Workload, benchmark_images

RESULT_FORMAT = 1
# Length of one bundle's turn: long enough that reading the device between turns leaves it warm.
TURN_SECONDS = 0.25
COLD_START_TIMEOUT = 900  # building TensorRT engines takes minutes

Progress = Callable[[str, int, int], None]  # what is measured, samples done, samples in all (0: by time)


class BenchmarkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to time, in each of ``precisions``.

    ``iterations`` per bundle, stage and batch size, or instead as many as ``seconds`` allow. ``threads`` None means all
    cores; ``cold_starts`` is the number of fresh processes per bundle.
    """

    stages: tuple[str, ...] = tuple(STAGES)
    batches: tuple[int, ...] = (1,)
    iterations: int = 100
    seconds: float | None = None
    warmup: int = 10
    cold_starts: int = 3
    precisions: tuple[str, ...] = (FP32,)
    provider: str = DEFAULT_PROVIDER
    threads: int | None = None
    seed: int = 0


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One bundle, stage and batch size. ``latency`` in milliseconds per call, ``throughput`` in images per second.

    ``joules`` is the whole device's energy per image during this bundle's turns, ``others`` the share of all cores that
    other processes took. ``steady`` is False where clocks, temperature, power mode or the latency itself moved, the
    device throttled or others interfered (``moved`` says which), and None where nothing speaks against it but neither
    clocks nor temperatures can be read.
    """

    bundle: str
    stage: str
    batch: int
    latency: LatencySummary
    throughput: float
    joules: float | None
    watts: float | None
    hottest_celsius: tuple[float, float] | None
    cpu_hertz: tuple[float, float] | None
    gpu_hertz: tuple[float, float] | None
    others: float | None
    steady: bool | None
    moved: tuple[str, ...]


class ColdStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fresh processes of one bundle: milliseconds of each phase by process, and their resident memory in MiB.

    ``steady_mib`` is resident after every explainer ran at the largest batch, ``peak_mib`` the most on the way there.
    Files come from the operating system's cache, as after a restart of the program, not of the device.
    """

    bundle: str
    phases: dict[str, tuple[float, ...]]
    steady_mib: tuple[float, ...]
    peak_mib: tuple[float, ...]


class BenchmarkResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that one benchmark found. ``bundles`` maps names to digests; the readings frame the whole run.

    A bundle has a name for each precision that was measured; ``precisions`` maps those names to it that are not FP32.
    ``passed_over`` is what ``--provider auto`` did not take.
    """

    format: int
    started: str
    options: BenchmarkOptions
    bundles: dict[str, str]
    software: dict[str, str]
    device: DeviceIdentity
    before: DeviceReadings
    after: DeviceReadings
    measurements: tuple[Measurement, ...]
    cold_starts: tuple[ColdStart, ...]
    precisions: dict[str, str] = {}
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A bundle in one of its precisions."""

    bundle: Bundle
    precision: str


@dataclass
class Series:
    """Samples of one bundle, stage and batch size, with the readings taken between its turns."""

    bundle: str
    stage: str
    batch: int
    milliseconds: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    readings: list[DeviceReadings] = field(default_factory=list)
    others: OtherLoad = field(default_factory=OtherLoad)
    joules: float | None = None

    def finish(self, options: BenchmarkOptions) -> Measurement:
        samples = np.asarray(self.milliseconds)
        latency = summarize(samples, options.seed)
        verdict = judge(self.readings, samples, self.others.share, on_gpu=options.provider != DEFAULT_PROVIDER)
        images = len(samples) * self.batch
        return Measurement(
            bundle=self.bundle,
            stage=self.stage,
            batch=self.batch,
            latency=latency,
            throughput=1e3 * self.batch / latency.mean,
            joules=None if self.joules is None else self.joules / images,
            watts=verdict.watts,
            hottest_celsius=verdict.hottest_celsius,
            cpu_hertz=verdict.cpu_hertz,
            gpu_hertz=verdict.gpu_hertz,
            others=self.others.share,
            steady=verdict.steady,
            moved=verdict.moved,
        )


@dataclass(frozen=True)
class Benchmark:
    """The result and, in ``series``, every single sample behind it."""

    result: BenchmarkResult
    series: tuple[Series, ...]


def benchmark_bundles(
    bundles: Sequence[Bundle], options: BenchmarkOptions | None = None, progress: Progress | None = None
) -> Benchmark:
    """Measure ``bundles`` in alternation, each in short turns, so that whatever drifts hits all alike.

    Raises InputError for options that cannot be, BundleError and ProviderError as the sessions do.
    """
    options = options or BenchmarkOptions()
    check_options(options)
    subjects = in_precisions(unique_names(bundles), options.precisions)
    choice = choose_for(
        [(each.bundle, each.precision) for each in subjects.values()], options.provider, options.threads
    )
    options = msgspec.structs.replace(options, provider=choice.provider)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    engines = {name: open_engines(subject, options) for name, subject in subjects.items()}
    cold = tuple(cold_start(subject, name, options) for name, subject in subjects.items() if options.cold_starts)
    series: list[Series] = []
    with DeviceSampler() as sampler:
        before = sampler.read()
        for batch in options.batches:
            work = {name: prepare(engines[name], batch, options.seed) for name in subjects}
            for stage in options.stages:
                calls = {name: STAGES[stage](each) for name, each in work.items()}
                series += measure(calls, stage, batch, options, sampler, progress)
        after = sampler.read()
    result = BenchmarkResult(
        format=RESULT_FORMAT,
        started=started,
        options=options,
        bundles={name: subject.bundle.digest for name, subject in subjects.items()},
        precisions={name: subject.precision for name, subject in subjects.items() if subject.precision != FP32},
        software=software_versions(),
        device=device_identity(),
        before=before,
        after=after,
        measurements=tuple(each.finish(options) for each in series),
        cold_starts=cold,
        passed_over=choice.passed_over,
    )
    return Benchmark(result=result, series=tuple(series))


def check_options(options: BenchmarkOptions) -> None:
    """Raise InputError for names that are unknown and numbers that are too small."""
    for stage in options.stages:
        if stage not in STAGES:
            raise unknown("stage", stage, STAGES)
    if options.provider not in CHOICES:
        raise unknown("provider", options.provider, CHOICES)
    least = {"iterations": 1, "warmup": 0, "cold_starts": 0}
    for name, limit in least.items():
        if getattr(options, name) < limit:
            raise InputError(f"{name} is {getattr(options, name)}; give at least {limit}")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise InputError(f"seconds is {options.seconds}; give a number above 0")
    if not options.precisions or len(set(options.precisions)) < len(options.precisions):
        raise InputError(f"precisions are {list(options.precisions)}; give at least one, each once")
    if not options.stages or not options.batches or min(options.batches) < 1:
        raise InputError(f"batches are {list(options.batches)}; give at least one stage and batch sizes of at least 1")


def unique_names(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """Return the bundles by name; equal names are told apart by their folders."""
    if not bundles:
        raise InputError("there is no bundle to measure; name at least one")
    names = [bundle.manifest.name for bundle in bundles]
    pairs = zip(names, bundles, strict=True)
    labels = [name if names.count(name) == 1 else f"{name} ({bundle.path})" for name, bundle in pairs]
    if len(set(labels)) < len(labels):
        raise InputError("a bundle is named twice; name each once")
    return dict(zip(labels, bundles, strict=True))


def in_precisions(names: dict[str, Bundle], precisions: Sequence[str]) -> dict[str, Subject]:
    """Return every bundle in every precision by name; raises InputError for one that a bundle lacks."""
    subjects = {}
    for name, bundle in names.items():
        for precision in precisions:
            bundle.file(CLASSIFIER, precision)
            subjects[name if precision == FP32 else f"{name} {precision}"] = Subject(bundle, precision)
    return subjects


def open_engines(subject: Subject, options: BenchmarkOptions) -> tuple[Classifier, Explainer | None]:
    bundle, precision = subject.bundle, subject.precision
    classifier = Classifier(bundle, options.provider, options.threads, precision=precision)
    if not needs_explainer(options):
        return classifier, None
    return classifier, Explainer(bundle, options.provider, options.threads, precision=precision, classifier=classifier)


def prepare(engines: tuple[Classifier, Explainer | None], batch: int, seed: int) -> Workload:
    classifier, explainer = engines
    return Workload(
        bundle=classifier.bundle,
        classifier=classifier,
        explainer=explainer,
        images=benchmark_images(classifier.bundle, batch),
        seed=seed,
    )


def measure(
    calls: dict[str, Call],
    stage: str,
    batch: int,
    options: BenchmarkOptions,
    sampler: DeviceSampler,
    progress: Progress | None,
) -> list[Series]:
    """Time one stage at one batch size for all bundles: A B A B ..., in turns of ``TURN_SECONDS``."""
    series = {name: Series(name, stage, batch) for name in calls}
    slowest = max(warm_up(call, options.warmup) for call in calls.values())
    per_turn = max(1, round(TURN_SECONDS / slowest))
    done, turn, clock = 0, 0, time.monotonic()
    for each in series.values():
        each.readings.append(sampler.read())
    while not finished(done, clock, len(calls), options):
        count = per_turn if options.seconds is not None else min(per_turn, options.iterations - done)
        for name, call in calls.items():
            if len(calls) > 1:
                call()  # not counted: the other bundles' turns have emptied the caches
            take_turn(series[name], call, count, turn, sampler)
        done, turn = done + count, turn + 1
        if progress is not None:
            progress(f"{stage}, batch {batch}", done, options.iterations if options.seconds is None else 0)
    return list(series.values())


def finished(done: int, start: float, bundles: int, options: BenchmarkOptions) -> bool:
    if options.seconds is None:
        return done >= options.iterations
    return done > 0 and time.monotonic() - start >= options.seconds * bundles


def warm_up(call: Call, count: int) -> float:
    """Call ``count`` + 1 times and return the seconds of the last, not zero even on a coarse clock."""
    seconds = 0.0
    for _ in range(count + 1):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
    return max(seconds, 1e-6)


def take_turn(series: Series, call: Call, count: int, turn: int, sampler: DeviceSampler) -> None:
    """Time ``count`` calls and read the device before and after them."""
    begin = sampler.read()
    series.others.begin()
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        series.milliseconds.append((time.perf_counter_ns() - start) / 1e6)
    series.others.end()
    end = sampler.read()
    series.turns += [turn] * count
    series.readings.append(end)
    if begin.energy_joules is not None and end.energy_joules is not None:
        series.joules = (series.joules or 0.0) + end.energy_joules - begin.energy_joules


def cold_start(subject: Subject, name: str, options: BenchmarkOptions) -> ColdStart:
    """Run ``options.cold_starts`` fresh processes one after the other; raises ProviderError when one fails."""
    found = [fresh_process(subject, options) for _ in range(options.cold_starts)]
    phases = {phase: tuple(each["laps"][phase] for each in found) for phase in found[0]["laps"]}
    return ColdStart(
        bundle=name,
        phases=phases,
        steady_mib=tuple(each["memory"]["steady"] for each in found if each["memory"]),
        peak_mib=tuple(each["memory"]["peak"] for each in found if each["memory"]),
    )


def fresh_process(subject: Subject, options: BenchmarkOptions) -> dict[str, dict[str, float]]:
    """Run ``cold_start`` once, from the package that runs here, be it installed or not; returns laps and memory."""
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    request = {
        "bundle": str(subject.bundle.path),
        "precision": subject.precision,
        "provider": options.provider,
        "threads": options.threads,
        "batch": max(options.batches),
        "explain": needs_explainer(options),
        "spawned": time.monotonic(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cold_start", json.dumps(request)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=COLD_START_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProviderError(
            f"a fresh process did not run {subject.bundle.path} within {COLD_START_TIMEOUT} s"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProviderError(f"a fresh process cannot run {subject.bundle.path} (exit code {done.returncode}): {reason}")
    answer: dict[str, dict[str, float]] = json.loads(done.stdout)
    return answer


def needs_explainer(options: BenchmarkOptions) -> bool:
    return set(options.stages) != {"classify"}
