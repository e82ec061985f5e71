"""What is measured of a candidate, and the points that limits, Pareto set and recommendation are about."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from toolkit.select.space import BASELINE, Candidate

Interval = tuple[float, float]


class Measures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One candidate on validation images and on this machine.

    ``accuracy`` is the share of ``images`` validation images; ``gini`` and ``road_auc`` (area under the MoRF curve)
    are of one explainer on a sample of them. ``latency_ms`` is the median of one classification, ``baseline_ms`` that
    of the unpruned network, timed in alternation. ``steady`` and ``moved`` are the benchmark's verdict on its own
    conditions. ``classifier_sha256`` and ``size_bytes`` are of ``classifier.onnx``.
    """

    accuracy: float
    images: int
    gini: float
    road_auc: float
    road_auc_interval: Interval
    latency_ms: float
    latency_interval: Interval
    baseline_ms: float
    steady: bool | None
    moved: tuple[str, ...]
    size_bytes: int
    classifier_sha256: str
    parameters: int
    nonzero_parameters: int
    macs: int

    @property
    def ratio(self) -> float:
        """Latency as a share of the unpruned network's at the same time, so that what slowed both cancels."""
        return self.latency_ms / self.baseline_ms


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one candidate: ``measures`` where it is "done", the ``reason`` where it "failed".

    ``confirmed`` says that its latency is from a second benchmark, made because it was to be recommended.
    """

    number: int
    candidate: Candidate
    state: Literal["done", "failed"]
    measures: Measures | None = None
    reason: str = ""
    seconds: dict[str, float] = {}
    software: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    confirmed: bool = False


@dataclass(frozen=True)
class Point:
    """A measured candidate beside the unpruned network, in the units that users think in.

    ``latency_ms`` is ``latency_ratio`` times the unpruned network's latency; ``drop`` is the loss of accuracy against
    it in percentage points, negative for a gain.
    """

    number: int
    candidate: Candidate
    latency_ratio: float
    latency_ms: float
    accuracy: float
    drop: float
    gini: float
    road_auc: float
    size_mb: float
    measures: Measures | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """``trial 7 (channel 50 %, after training, 2 epochs of fine-tuning)``."""
        return f"trial {self.number} ({self.candidate.label})"


@dataclass(frozen=True)
class Objective:
    """One thing to make small, or large where ``sign`` is -1; differences below ``resolution`` do not count."""

    name: str
    title: str
    sign: int
    resolution: float


OBJECTIVES: tuple[Objective, ...] = (
    Objective("latency_ratio", "latency", 1, 0.02),  # what medians repeat to on a quiet machine
    Objective("accuracy", "accuracy", -1, 0.001),
    Objective("gini", "Gini", -1, 0.005),
    Objective("road_auc", "ROAD MoRF AUC", 1, 0.005),
)


def points(records: Sequence[Record]) -> list[Point]:
    """Return the measured candidates in the order of their numbers; there are none before the baseline is measured.

    The unpruned network's latency is the median of all its medians: its own and those beside every candidate.
    """
    known = [(record, record.measures) for record in records if record.measures is not None]
    baseline = next((measures for record, measures in known if record.candidate == BASELINE), None)
    if baseline is None:
        return []
    reference = statistics.median(measures.baseline_ms for _, measures in known)
    return [
        Point(
            number=record.number,
            candidate=record.candidate,
            latency_ratio=measures.ratio,
            latency_ms=measures.ratio * reference,
            accuracy=measures.accuracy,
            drop=100 * (baseline.accuracy - measures.accuracy),
            gini=measures.gini,
            road_auc=measures.road_auc,
            size_mb=measures.size_bytes / 1e6,
            measures=measures,
        )
        for record, measures in sorted(known, key=lambda pair: pair[0].number)
    ]
