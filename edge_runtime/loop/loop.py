"""The vehicle loop: frames from a source, classified first, audited as time allows, logged, and shown."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import replace

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Prediction
from edge_runtime.device import DeviceReadings, DeviceSampler
from edge_runtime.errors import EngineError, ProviderError, RoadworthyError
from edge_runtime.live import LiveStatus, LiveWriter, Series
from edge_runtime.log import AuditLog, FrameRecord
from edge_runtime.loop.audits import Auditor, Sample
from edge_runtime.loop.board import LIVE_SAMPLES, Board, Pictures
from edge_runtime.loop.engine import Engine, HangingError
from edge_runtime.loop.housekeeper import Housekeeper, Window
from edge_runtime.loop.keeper import LogKeeper
from edge_runtime.loop.ladder import STEPS, Ladder
from edge_runtime.loop.options import LoopOptions, LoopSummary
from edge_runtime.loop.queue import POLL_SECONDS, FrameQueue, start_reader
from edge_runtime.loop.witness import Streak, Witness
from edge_runtime.preprocess import normalize
from edge_runtime.provider_choice import choose
from edge_runtime.service.notify import Notifier
from edge_runtime.sources.crops import crop_images
from edge_runtime.sources.frame import BACK, LOST, Frame, Source

# So many failures in a row, and the sessions are opened anew in the hope that it helps.
FAILURES_TO_REBUILD = 3
READER_SECONDS = 0.5  # what a source gets to notice that the loop is stopping
# Without a frame for so long a live source's loop is "waiting".
SILENCE_SECONDS = 2.0


class VehicleLoop:
    """One run over one source. ``run`` returns when the source ends, a limit is reached, or ``stop`` is called.

    A source that is not live is replayed: every frame is taken, audits are scheduled by counts and nothing is left out,
    so that the same frames give the same records, but for time stamps, ``latency_ms`` and ``device``. The ``log`` is
    closed at the end, so that all of it is durable.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: Source,
        options: LoopOptions,
        *,
        log: AuditLog | None = None,
        live: LiveWriter | None = None,
        sampler: DeviceSampler | None = None,
    ) -> None:
        options.check()
        engine = options.engine
        choice = choose(bundle, engine.provider, engine.threads, precision=engine.precision)
        options = replace(options, engine=replace(engine, provider=choice.provider))
        self._bundle, self._source, self._options, self._passed_over = bundle, source, options, choice.passed_over
        self._live, self._sampler = live, sampler
        self._stopping = threading.Event()
        self._replay = not source.live
        self._ladder = Ladder(options.ladder)
        self._keeper = LogKeeper(log, patient=self._replay, stopping=self._stopping.is_set)
        self._witness = Witness(bundle, self._keeper, options.schedule.every, self._ladder.allows)
        self._board = self._witness.board
        self._queue = FrameQueue(source, options.depth, self._happened)
        self._engine = Engine(bundle, options.engine, self._stopping.is_set)
        self._auditor = Auditor(
            self._engine, options.schedule, self._witness, replay=self._replay, allows=self._ladder.allows
        )
        self._failing = Streak("inference-failed")
        self._notifier = Notifier()
        self._images = self._taken = 0
        self._started_wall, self._started = time.time(), time.monotonic()
        self._state, self._message, self._ended = "starting", "", ""

    @property
    def board(self) -> Board:
        """What the loop collects: every latency sample, series, events."""
        return self._board

    def stop(self, reason: str) -> None:
        """Ask the loop to end; safe from any thread and from a signal handler."""
        self._ended = self._ended or reason
        self._stopping.set()

    def run(self) -> LoopSummary:
        """Run to the end. Raises what the source raised, and ProviderError where only a new process can go on."""
        window = None
        if self._live is not None:
            window = Window(self._live, self.status, self._pictures)
        reader: threading.Thread | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._keeper)
            stack.enter_context(self._source)
            stack.callback(self._engine.close)
            stack.enter_context(Housekeeper(self._sampler, self._sensed, window))
            try:
                self._warm_up()
                engine = self._options.engine
                how = f"{engine.precision} by {engine.provider}"
                self._happened("started", f"{self._bundle.manifest.name} ({how}) on {self._source.name}")
                for passed in self._passed_over:
                    self._happened("provider-passed-over", str(passed))
                self._started = time.monotonic()
                self._state = "running"
                self._notifier.ready(f"{self._bundle.manifest.name} on {self._source.name}")
                reader = start_reader(self._queue)
                self._cycle()
            finally:
                self._end(reader)
        if self._queue.error is not None:
            raise self._queue.error
        if self._engine.exhausted:
            raise ProviderError("too many inferences hung for ever; start the process anew, or use another provider")
        return self.summary()

    def _warm_up(self) -> None:
        """Open the sessions; a stop meanwhile is no error."""
        try:
            self._engine.warm_up(self._options.schedule.methods if self._engine.explains else ())
        except EngineError:
            if not self._stopping.is_set():
                raise

    def _end(self, reader: threading.Thread | None) -> None:
        """Settle everything that is open; the threads end after this."""
        self.stop("an error")
        self._queue.stop()
        self._auditor.abandon()
        if reader is not None:
            reader.join(READER_SECONDS)
        if self._queue.error is not None:
            self._ended = f"the source failed: {self._queue.error}"
        self._state, self._message = "stopped", self._ended
        self._notifier.stopping(self._ended)
        counts = {name: float(value) for name, value in msgspec.structs.asdict(self._queue.counts).items()}
        self._witness.happened("stopped", self._ended, {**counts})
        self._keeper.close()  # before the source, whose devices may take their time to be released

    def _cycle(self) -> None:
        """Take frames until there is a reason to end: the newest first, audits between them."""
        while not self._stopping.is_set():
            frame = self._queue.take(self._patience())
            if frame is not None:
                self._process(frame)
                self._check_limits()
            elif self._queue.ended:
                self.stop("the source ended")
            self._check_time()
            self._climb()
            self._audit()
            if self._engine.exhausted:
                self.stop("too many inferences hung for ever")

    def _patience(self) -> float:
        """Return how long to wait for a frame before auditing on."""
        if not self._auditor.pending:
            return POLL_SECONDS
        room = self._room()
        if self._auditor.next_slot(room, time.monotonic()) is not None:
            return 0.0
        # Nothing fits before the next frame: wait for that frame, for as long as it is not overdue.
        overdue = POLL_SECONDS if room is None else room + (self._queue.interval or 0.0)
        return min(max(overdue, 0.0), POLL_SECONDS)

    def _room(self) -> float | None:
        """Return the seconds until the next frame is expected, None where it is overdue or nothing is known."""
        arrived, interval = self._queue.last_arrival, self._queue.interval
        if arrived is None or interval is None:
            return None
        left = arrived + interval - time.monotonic()
        return left if left > -interval else None

    def _audit(self) -> None:
        """Do a slice of auditing, if one fits."""
        if not self._auditor.pending:
            return
        room = 0.0 if self._queue.waiting else self._room()
        slot = self._auditor.next_slot(room, time.monotonic())
        if slot is not None:
            self._auditor.step(slot)

    def _check_limits(self) -> None:
        self._taken += 1
        if self._options.frames is not None and self._taken >= self._options.frames:
            self.stop(f"{self._taken} frames were taken")

    def _check_time(self) -> None:
        seconds = self._options.seconds
        if seconds is not None and time.monotonic() - self._started >= seconds:
            self.stop(f"{seconds:g} seconds have passed")

    def _process(self, frame: Frame) -> None:
        """Classify every box of a frame and begin what audits are due; whatever fails, the frame is accounted for."""
        try:
            samples = self._classify(frame)
        except RoadworthyError as error:
            self._failed(frame, error)
            return
        self._failing.good(self._happened)
        self._queue.settle(processed=True)
        self._notifier.frame_done()
        self._witness.show(frame, samples[-1])
        for sample in samples:
            self._witness.watch(sample)
            self._auditor.offer(sample)
            if self._replay:
                self._auditor.finish(self._stopping.is_set)

    def _classify(self, frame: Frame) -> list[Sample]:
        """Return one sample per box of the frame, or one for all of it."""
        begin = time.monotonic()
        images = crop_images(frame, self._bundle.manifest.input)
        tensors = normalize(images, self._bundle.manifest.input)
        prepared = time.monotonic()
        prediction = self._engine.classify(tensors)
        done = time.monotonic()
        latency = {"preprocess": 1e3 * (prepared - begin), "classify": 1e3 * (done - prepared)}
        if frame.captured_ns:
            latency["age"] = 1e3 * done - frame.captured_ns / 1e6
        for stage, milliseconds in latency.items():
            self._board.took(stage, milliseconds)
        self._ladder.aged(latency.get("age", latency["classify"]))
        boxes = [(box.x0, box.y0, box.x1, box.y1) for box in frame.boxes]
        samples = []
        for index in range(len(images)):
            samples.append(
                Sample(
                    frame_id=f"{frame.frame_id}#{index}" if len(boxes) > 1 else frame.frame_id,
                    number=self._images,
                    image=images[index],
                    tensor=tensors[index : index + 1],
                    prediction=one(prediction, index),
                    latency_ms=dict(latency),
                    box=boxes[index] if boxes else None,
                    truth=frame.boxes[index].label if boxes else None,
                    problems=frame.problems,
                )
            )
            self._images += 1
        return samples

    def _failed(self, frame: Frame, error: RoadworthyError) -> None:
        self._queue.settle(processed=False)
        self._keeper.append(FrameRecord(frame_id=frame.frame_id, flags=(f"failed: {error}"[:1000],)))
        in_a_row = self._failing.bad(self._happened, f"{frame.frame_id}: {error}")
        if not self._stopping.is_set() and (isinstance(error, HangingError) or in_a_row % FAILURES_TO_REBUILD == 0):
            self._engine.rebuild()

    def _happened(self, name: str, message: str) -> None:
        if name == LOST:
            self._state, self._message = "waiting", message
        elif name == BACK:
            self._state, self._message = "running", ""
        self._witness.happened(name, message)

    def _sensed(self, readings: DeviceReadings) -> None:
        self._witness.device = readings
        self._ladder.sensed(readings.hottest_celsius, readings.throttled, readings.throttle_reasons or ())

    def _climb(self) -> None:
        """Let the ladder move; a replay has no deadlines and leaves nothing out."""
        change = None if self._replay else self._ladder.update(time.monotonic())
        if change is None:
            return
        self._auditor.forbid()
        message = f"{STEPS[change.before].name} -> {STEPS[change.step].name}: {change.reason}"
        self._witness.happened("degradation", message, {"before": change.before, "step": change.step})

    def _pictures(self) -> Pictures | None:
        return self._board.pictures if self._ladder.allows("thumbnails") else None

    def status(self) -> LiveStatus:
        """Return the loop at this moment, for the live folder."""
        board = self._board
        interval = self._queue.interval
        state, message = self._state, self._message
        arrived = self._queue.last_arrival
        silent = arrived is not None and time.monotonic() - arrived > SILENCE_SECONDS
        if state == "running" and silent and self._source.live:
            state, message = "waiting", f"no frame from {self._source.name} for {SILENCE_SECONDS:g} s"
        return LiveStatus(
            written_wall=time.time(),
            boot_monotonic=time.monotonic(),
            started_wall=self._started_wall,
            process=os.getpid(),
            state=state,
            message=message,
            bundle=self._bundle.manifest.name,
            digest=self._bundle.digest,
            source=self._source.name,
            provider=self._options.engine.provider,
            counts=self._queue.counts,
            frames_per_second=None if not interval or silent else 1 / interval,
            last_frame_wall=board.last_frame_wall,
            shown=board.shown,
            saliency_method=board.pictures.method,
            latency=board.latency(LIVE_SAMPLES),
            histograms=board.histograms(),
            gini=board.series("gini"),
            road=board.series("road"),
            confidence=board.series("confidence").get("", Series()),
            drift=self._witness.drift_states(),
            step=self._ladder.step,
            step_name=STEPS[self._ladder.step].name,
            device=self._witness.device,
            log=self._keeper.status(),
            events=board.events,
        )

    def summary(self) -> LoopSummary:
        """Return what the loop did so far."""
        return LoopSummary(
            bundle=self._bundle.manifest.name,
            digest=self._bundle.digest,
            source=self._source.name,
            ended=self._ended,
            counts=self._queue.counts,
            images=self._images,
            seconds=time.monotonic() - self._started,
            audits=dict(self._auditor.done),
            skipped=dict(self._auditor.skipped),
            events=dict(self._keeper.events),
            latency=self._board.latency(),
            drift=self._witness.drift_states(),
            step=STEPS[self._ladder.step].name,
            rebuilt=self._engine.rebuilt,
            log=self._keeper.status(),
            problem=self._keeper.problem,
            passed_over=self._passed_over,
        )


def one(prediction: Prediction, index: int) -> Prediction:
    """Return the prediction of one image of a batch."""
    part = slice(index, index + 1)
    return Prediction(
        logits=prediction.logits[part],
        target=prediction.target[part],
        probability=prediction.probability[part],
        valid=prediction.valid[part],
    )
