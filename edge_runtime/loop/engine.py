"""The models under supervision: a run of the engine that hangs is ended, and the session built anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import EXPLAINER, Bundle
from edge_runtime.classifier import Classifier, Prediction
from edge_runtime.errors import EngineError
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import FP32, Method
from edge_runtime.sessions import DEFAULT_PROVIDER, FATAL_ONLY, first_line, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

# What a terminated run gets to come back before its thread is given up; also what a run gets when the loop stops.
GRACE_SECONDS = 0.5
POLL_SECONDS = 0.05
# Threads that never came back hold their session's memory for ever; so many are enough to give the process up.
MOST_ABANDONED = 3


@dataclass
class _Call:
    """One run: what to compute, the switch that ends it, and where its result goes."""

    session: onnxruntime.InferenceSession
    outputs: list[str]
    feeds: dict[str, NDArray[Any]]
    options: onnxruntime.RunOptions
    answer: SimpleQueue[list[NDArray[Any]] | Exception] = field(default_factory=SimpleQueue)


class Supervisor:
    """Runs sessions in a thread of its own and waits at most ``timeout`` seconds for each run.

    A run that takes longer is told to terminate, which onnxruntime heeds between two operators; a run that does not is
    abandoned with its thread. ``stopping`` shortens the waiting.
    """

    def __init__(self, timeout: float, stopping: Callable[[], bool] = lambda: False) -> None:
        self.timeout = timeout
        self.abandoned = 0
        self._stopping = stopping
        self._calls = self._start()

    def run(
        self, session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Run the engine once (see ``sessions.Run``). Raises EngineError for a run that fails, hangs, or must stop."""
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = FATAL_ONLY
        call = _Call(session, list(outputs), dict(feeds), options)
        self._calls.put(call)
        found = self._await(call, self.timeout)
        if found is None:
            found = self._terminate(call)
        if isinstance(found, Exception):
            raise EngineError(f"inference failed: {first_line(found)}") from found
        return found

    def _await(self, call: _Call, seconds: float) -> list[NDArray[Any]] | Exception | None:
        """Return the result, None where there is none after ``seconds``, or GRACE_SECONDS after a stop."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            try:
                return call.answer.get(timeout=min(left, POLL_SECONDS))
            except Empty:
                if self._stopping():
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)

    def _terminate(self, call: _Call) -> list[NDArray[Any]]:
        """End a run that takes too long; its result counts all the same where it comes at the last moment."""
        call.options.terminate = True
        try:
            found = call.answer.get(timeout=GRACE_SECONDS)
        except Empty:
            self.abandoned += 1
            self._calls = self._start()
            raise HangingError(f"inference took over {self.timeout:g} s and could not be terminated") from None
        if isinstance(found, Exception):
            raise HangingError(f"inference took over {self.timeout:g} s and was terminated") from found
        return found

    def _start(self) -> SimpleQueue[_Call | None]:
        calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=_work, args=(calls,), name="engine", daemon=True).start()
        return calls

    def close(self) -> None:
        """Let the thread end once it has nothing to do."""
        self._calls.put(None)


class HangingError(EngineError):
    """A run of the engine that had to be ended."""


def _work(calls: SimpleQueue[_Call | None]) -> None:
    """Run what comes; the body of the engine's thread."""
    while (call := calls.get()) is not None:
        try:
            call.answer.put(call.session.run(call.outputs, call.feeds, call.options))
        except Exception as error:  # onnxruntime raises a dozen unrelated types; the supervisor tells them apart
            call.answer.put(error)
        del call  # or the last images would live until the next call


@dataclass(frozen=True)
class EngineOptions:
    """Where, how and in which precision the models run. ``timeout``: seconds that one run of the engine may take."""

    provider: str = DEFAULT_PROVIDER
    threads: int | None = None
    timeout: float = 2.0
    precision: str = FP32


class Engine:
    """Classifier and explainer of one bundle, supervised; both are opened again after a run had to be ended.

    Raises EngineError for a run that failed, and once too many could not even be terminated, ``exhausted`` is true.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions, stopping: Callable[[], bool] = lambda: False) -> None:
        self.bundle = bundle
        self.rebuilt = 0
        self._options = options
        self._supervisor = Supervisor(options.timeout, stopping)
        self._classifier: Classifier | None = None
        self._explainer: Explainer | None = None

    @property
    def explains(self) -> bool:
        """Whether the bundle has an explainer at all."""
        return self.bundle.has(EXPLAINER)

    @property
    def exhausted(self) -> bool:
        """Whether so many runs hang for ever that only a new process helps."""
        return self._supervisor.abandoned >= MOST_ABANDONED

    @property
    def classifier(self) -> Classifier:
        """The classifier, opened where it must be."""
        if self._classifier is None:
            options, run = self._options, self._supervisor.run
            self._classifier = Classifier(
                self.bundle, options.provider, options.threads, precision=options.precision, run=run
            )
        return self._classifier

    @property
    def explainer(self) -> Explainer:
        """The explainer, opened where it must be."""
        if self._explainer is None:
            options, classifier, run = self._options, self.classifier, self._supervisor.run
            self._explainer = Explainer(
                self.bundle,
                options.provider,
                options.threads,
                precision=options.precision,
                classifier=classifier,
                run=run,
            )
        return self._explainer

    def warm_up(self, methods: Sequence[Method]) -> None:
        """Open the sessions and run each as they will be run, for as long as it takes: an engine may be compiled now.

        A few sample points of every method do; IG computes F(baseline) once and keeps it.
        """
        spec = self.bundle.manifest.input
        image = np.zeros((1, 3, spec.height, spec.width), np.float32)
        patient, self._supervisor.timeout = self._supervisor.timeout, float("inf")
        try:
            self.classifier.predict(image)
            for method in methods:
                few = msgspec.structs.replace(self.explainer.preset(method), samples=2, tolerance=None)
                self.explainer.explain(image, method, target=0, chunk=1, preset=few)
        finally:
            self._supervisor.timeout = patient

    def classify(self, images: NDArray[np.float32]) -> Prediction:
        """Classify normalised images float32 [N, C, H, W]."""
        return self.classifier.classify(images)

    def rebuild(self) -> None:
        """Drop both sessions; the next use opens new ones."""
        self._classifier = self._explainer = None
        self.rebuilt += 1

    def close(self) -> None:
        """Drop the sessions and let the engine's thread end."""
        self._classifier = self._explainer = None
        self._supervisor.close()
