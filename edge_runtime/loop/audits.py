"""The auditing between frames: explanations and ROAD as jobs in slices, each at most one run of the engine long."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.classifier import Prediction
from edge_runtime.errors import RoadworthyError
from edge_runtime.explainer import Explanation, Steps
from edge_runtime.log.record import RoadWindow
from edge_runtime.loop.engine import Engine, HangingError
from edge_runtime.loop.schedule import COSTLY, Budget, Gaps, Reservoir, ScheduleOptions, Turns
from edge_runtime.manifest import Method
from edge_runtime.metrics import ORDERS, PERCENTAGES, RoadCurve, image_areas, road_steps

# Live, a run of the engine takes one sample point: the newest frame waits for no more than that.
LIVE_CHUNK = 1
ROAD_METHOD: Method = "vg"
# Each slot holds one job at a time; most urgent first.
SLOTS = VG_SLOT, COSTLY_SLOT, ROAD_SLOT = "vg", "costly", "road"


@dataclass(frozen=True)
class Sample:
    """One classified image: of the model's size, as pixels uint8 [H, W, 3] and normalised float32 [1, C, H, W].

    ``prediction`` is of this image alone; ``number`` counts classified images from 0; ``truth`` is the label that the
    source knows, ``problems`` what was wrong with its frame and mended.
    """

    frame_id: str
    number: int
    image: NDArray[np.uint8]
    tensor: NDArray[np.float32]
    prediction: Prediction
    latency_ms: dict[str, float]
    box: tuple[int, int, int, int] | None = None
    truth: str | None = None
    problems: tuple[str, ...] = ()


@dataclass
class Held:
    """A sample whose record waits for ``outstanding`` jobs. ``road`` is that of the window which the sample closed."""

    sample: Sample
    explanations: list[Explanation] = field(default_factory=list)
    road: tuple[RoadWindow, ...] = ()
    outstanding: int = 0


class Listener(Protocol):
    """Who is told of what the auditing found."""

    def explained(self, sample: Sample, explanation: Explanation, milliseconds: float) -> None:
        """An explanation is there."""

    def measured(self, method: Method, areas: NDArray[np.float64], milliseconds: float) -> None:
        """ROAD of a method over a reservoir of images is there; ``areas`` [n] as in the manifest's baseline."""

    def complete(self, held: Held) -> None:
        """Everything that was due for a sample is there, or will never be."""

    def failed(self, kind: str, reason: str) -> None:
        """A job of this kind failed."""


@dataclass
class _Job:
    """Work in slices for ``held``; ``done`` gets its result and the milliseconds that the slices took together."""

    kind: str
    steps: Steps[Any]
    done: Callable[[Any, float], None]
    held: Held
    touched: float
    seconds: float = 0.0


class Auditor:
    """Decides what of a sample is audited, and does it slice by slice when told that there is time.

    ``replay``: everything is scheduled by counts and nothing left out, so that the same images give the same audits.
    ``allows`` says whether a kind of work (vg, ig, sg, road) may be done at present.
    """

    def __init__(
        self,
        engine: Engine,
        options: ScheduleOptions,
        listener: Listener,
        *,
        replay: bool,
        allows: Callable[[str], bool],
    ) -> None:
        self.done: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self._engine = engine
        self._options = options
        self._listener = listener
        self._replay = replay
        self._allows = allows
        self._jobs: dict[str, _Job] = {}
        self._budget = Budget(options.budget)
        self._gaps = Gaps()
        self._turns = Turns(options.methods)
        self._due = 0
        images = options.road_images if ROAD_METHOD in options.methods and engine.explains else 0
        self._reservoir: Reservoir[Sample] = Reservoir(images, options.road_window, options.seed)
        baseline = engine.bundle.manifest.baselines.road.get(ROAD_METHOD)
        self._percentages = tuple(PERCENTAGES) if baseline is None else baseline.percentages

    @property
    def pending(self) -> bool:
        """Whether any job waits for time."""
        return bool(self._jobs)

    def offer(self, sample: Sample) -> None:
        """Begin what is due for this sample; its record is complete at once where nothing is."""
        held = Held(sample)
        if self._engine.explains and sample.prediction.valid[0]:
            for method in self._methods(sample):
                self._begin_explanation(held, method)
            kept = self._reservoir.offer(sample)
            if kept is not None:
                self._begin_road(held, kept)
        if not held.outstanding:
            self._listener.complete(held)

    def _methods(self, sample: Sample) -> list[Method]:
        """Return the explainers that are due for this sample."""
        options = self._options
        if sample.number % options.every:
            return []
        due: list[Method] = ["vg"] if "vg" in options.methods else []
        if self._costly_due():
            method = self._turns.take()
            due += [method] if method is not None else []
        self._due += 1
        return due

    def _costly_due(self) -> bool:
        if self._replay:
            return self._due % self._options.costly_every == 0
        return not {COSTLY_SLOT, ROAD_SLOT} & self._jobs.keys() and self._budget.allows(time.monotonic())

    def _begin_explanation(self, held: Held, method: Method) -> None:
        def done(explanation: Explanation, milliseconds: float) -> None:
            held.explanations.append(explanation)
            self._listener.explained(held.sample, explanation, milliseconds)
            self._settle(held)

        slot = COSTLY_SLOT if method in COSTLY else VG_SLOT
        self._begin(slot, held, method, self._explain(held.sample, method), done)

    def _begin_road(self, held: Held, samples: list[Sample]) -> None:
        def done(curves: dict[str, RoadCurve], milliseconds: float) -> None:
            held.road = tuple(road_window(order, curve) for order, curve in curves.items())
            self._listener.measured(ROAD_METHOD, image_areas(curves["morf"], curves["lerf"]), milliseconds)
            self._settle(held)

        self._begin(ROAD_SLOT, held, "road", self._road(samples), done)

    def _begin(self, slot: str, held: Held, kind: str, steps: Steps[Any], done: Callable[[Any, float], None]) -> None:
        """Put a job into its slot; where that is taken, or the ladder forbids it, count it as skipped."""
        if slot in self._jobs or not self._allows(kind):
            self.skipped[kind] = self.skipped.get(kind, 0) + 1
            return
        held.outstanding += 1
        self._jobs[slot] = _Job(kind, steps, done, held, time.monotonic())
        self.step(slot)  # as far as the first run of the engine: prepares only

    def _settle(self, held: Held) -> None:
        held.outstanding -= 1
        if not held.outstanding:
            self._listener.complete(held)

    def _explain(self, sample: Sample, method: Method) -> Steps[Explanation]:
        """Explain the sample's predicted class; the explainer is opened, if it must be, in the first slice."""
        target, chunk = sample.prediction.target, None if self._replay else LIVE_CHUNK
        explainer = self._engine.explainer
        return (yield from explainer.explain_steps(sample.tensor, method, target, self._options.seed, chunk))

    def _road(self, samples: list[Sample]) -> Steps[dict[str, RoadCurve]]:
        """Explain and measure every sample on its own; return one curve per order over all of them."""
        found: dict[str, list[RoadCurve]] = {order: [] for order in ORDERS}
        for sample in samples:
            explanation = yield from self._explain(sample, ROAD_METHOD)
            if not explanation.valid[0]:
                continue
            yield
            target, saliency, seed = sample.prediction.target, explanation.saliency(), self._options.seed
            for order, curves in found.items():
                steps = road_steps(sample.tensor, saliency, target, self._percentages, order, seed)
                curves.append((yield from self._classified(steps)))
        return {order: joined(curves, self._percentages) for order, curves in found.items()}

    def _classified(self, steps: Generator[NDArray[np.float32], Any, RoadCurve]) -> Steps[RoadCurve]:
        """Classify what ROAD's steps yield, pausing before and after every run of the engine."""
        batch = next(steps)
        while True:
            yield
            logits = self._engine.classifier.predict(batch)
            yield
            try:
                batch = steps.send(logits)
            except StopIteration as stop:
                curve: RoadCurve = stop.value
                return curve

    def next_slot(self, room: float | None, now: float) -> str | None:
        """Return the most urgent job of which a slice fits into ``room`` seconds, or that has waited too long."""
        for slot in SLOTS:
            job = self._jobs.get(slot)
            if job is None:
                continue
            if slot != VG_SLOT and not self._replay and not self._budget.allows(now):
                continue
            if self._gaps.fits(job.kind, room) or now - job.touched >= self._gaps.patience_seconds:
                return slot
        return None

    def step(self, slot: str) -> None:
        """Do one slice of a job."""
        job = self._jobs[slot]
        start = time.monotonic()
        try:
            next(job.steps)
        except StopIteration as stop:
            self._end(slot, start)
            self.done[job.kind] = self.done.get(job.kind, 0) + 1
            job.done(stop.value, 1e3 * job.seconds)
        except RoadworthyError as error:
            self._end(slot, start)
            if isinstance(error, HangingError):
                self._engine.rebuild()
            self._listener.failed(job.kind, str(error))
            self._settle(job.held)
        else:
            self._account(job, start)

    def _end(self, slot: str, start: float) -> None:
        self._account(self._jobs.pop(slot), start)

    def _account(self, job: _Job, start: float) -> None:
        job.touched = time.monotonic()
        seconds = job.touched - start
        job.seconds += seconds
        self._gaps.took(job.kind, seconds)
        if job.kind != "vg":
            self._budget.spend(seconds)

    def finish(self, stopping: Callable[[], bool]) -> None:
        """Do all that is pending at once, unless the loop is stopping."""
        while self._jobs and not stopping():
            self.step(next(slot for slot in SLOTS if slot in self._jobs))

    def forbid(self) -> None:
        """Drop the jobs that the ladder no longer allows."""
        for slot, job in list(self._jobs.items()):
            if not self._allows(job.kind):
                self._drop(slot)

    def abandon(self) -> None:
        """Drop every job; the records that waited for them are completed without."""
        for slot in list(self._jobs):
            self._drop(slot)

    def _drop(self, slot: str) -> None:
        job = self._jobs.pop(slot)
        self.skipped[job.kind] = self.skipped.get(job.kind, 0) + 1
        job.steps.close()
        self._settle(job.held)


def joined(curves: list[RoadCurve], percentages: tuple[float, ...]) -> RoadCurve:
    """Return the curve over all images of ``curves``, possibly none."""
    levels = np.asarray(percentages, np.float64)
    correct = np.concatenate([np.zeros((0, len(levels)), np.bool_), *(curve.correct for curve in curves)])
    probability = np.concatenate([np.zeros((0, len(levels))), *(curve.probability for curve in curves)])
    return RoadCurve(percentages=levels, correct=correct, probability=probability)


def road_window(order: str, curve: RoadCurve) -> RoadWindow:
    """Return a curve of agreement with the model's own predictions as a record."""
    images = len(curve.correct)
    return RoadWindow(
        measure="agreement",
        method=ROAD_METHOD,
        order="morf" if order == "morf" else "lerf",
        percentages=tuple(curve.percentages.tolist()),
        scores=tuple(curve.accuracy.tolist()) if images else (None,) * len(curve.percentages),
        auc=curve.auc if images else None,
        images=images,
    )
