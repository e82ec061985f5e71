"""Latency of a candidate against the unpruned network, as the device runtime runs both: exported, on this CPU."""

from __future__ import annotations

from functools import partial
from types import TracebackType

import numpy as np
from torch import nn

from edge_runtime import sessions
from edge_runtime.benchmark import BenchmarkOptions, Series, measure
from edge_runtime.device import DeviceSampler
from edge_runtime.workload import Call
from export.to_onnx import to_onnx

PROVIDER = "cpu"
SECONDS = 1.5
"""Of measuring for each of the two networks: six turns in alternation."""
CONFIRMING = 2
"""How much longer the last measurement takes, which is the one that counts."""


class LatencyMeter:
    """Measures what share of the latency of ``original`` other networks save; a context manager."""

    def __init__(self, original: nn.Module, input_size: int) -> None:
        self._size = input_size
        self._original = _call(original, input_size)
        self._sampler = DeviceSampler()

    def __enter__(self) -> LatencyMeter:
        self._sampler.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sampler.__exit__(kind, error, at)

    def saved(self, model: nn.Module, seconds: float = SECONDS) -> float:
        """Return 1 - latency of ``model`` / latency of the original, batch 1.

        The two take turns; the ratio is the median over the turns of the ratio of their medians, so that neither
        outliers nor a clock that drifts decide.
        """
        calls = {"original": self._original, "pruned": _call(model, self._size)}
        options = BenchmarkOptions(stages=("classify",), seconds=seconds, cold_starts=0, provider=PROVIDER)
        original, pruned = measure(calls, "classify", 1, options, self._sampler, None)
        return 1 - float(np.median(_turns(pruned) / _turns(original)))


def _turns(series: Series) -> np.ndarray:
    """Return the median latency of each turn [T] in milliseconds."""
    samples, turns = np.asarray(series.milliseconds), np.asarray(series.turns)
    return np.array([np.median(samples[turns == turn]) for turn in np.unique(turns)])


def _call(model: nn.Module, input_size: int) -> Call:
    """Return a call that classifies one image with the exported ``model``."""
    content = to_onnx(model, input_size=(input_size, input_size)).SerializeToString()
    session = sessions.create(content, "classifier.onnx", PROVIDER, sessions.session_options(None))
    image = np.random.default_rng(0).standard_normal((1, 3, input_size, input_size), np.float32)
    return partial(sessions.run_session, session, ["logits"], {"image": image})
