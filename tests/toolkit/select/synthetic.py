"""Points and searches without networks: what a candidate measures is a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.toolkit.squares import DATASET
from toolkit import workplace
from toolkit.recipes import TrainConfig
from toolkit.select import search
from toolkit.select.constraints import Limits
from toolkit.select.measures import Measures, Point, Record
from toolkit.select.search import Make, Search, SearchStoppedError
from toolkit.select.space import BASELINE, Candidate, Space
from toolkit.select.store import Identity, Store, Trial
from toolkit.select.trial import Measuring, Setup, Step, without_test

SPACE = Space(methods=("l1", "channel"), timings=("pre", "post"), fine_tune=(0, 2))
IDENTITY = Identity(
    data="squares",
    data_digest=DATASET.digest,
    normalisation=(DATASET.mean, DATASET.std),
    architecture="vgg_small",
    width=0.25,
    size=16,
    seed=0,
    training={"epochs": 2, "channels_last": ("cpu",)},
    fine_tuning={},
    origin=None,
    explainer="vg",
    images=8,
    provider="cpu",
    threads=1,
    machine="here",
)
SETUP = Setup(
    dataset=without_test(DATASET),
    architecture="vgg_small",
    width=0.25,
    training=TrainConfig(epochs=2, batch=32, learning_rate=0.05, device="cpu"),
    fine_tuning=TrainConfig(epochs=1, batch=32, learning_rate=0.01, device="cpu"),
    origin=None,
    measuring=Measuring(explainer="vg", images=8, seconds=0.02, provider="cpu", threads=1),
)


def point(number: int, latency: float = 1.0, accuracy: float = 0.9, gini: float = 0.5, road: float = 0.4) -> Point:
    """A point beside an unpruned network of 2 ms and 95 %."""
    return Point(
        number=number,
        candidate=BASELINE if number == 0 else Candidate(method="channel", percent=50, timing="post", fine_tune=number),
        latency_ratio=latency / 2,
        latency_ms=latency,
        accuracy=accuracy,
        drop=100 * (0.95 - accuracy),
        gini=gini,
        road_auc=road,
        size_mb=1.0,
    )


def measures(candidate: Candidate) -> Measures:
    """Fewer channels make it faster and worse, training heals, masks cost accuracy alone."""
    share = candidate.percent / 100
    fast = share if candidate.method == "channel" else 0.0
    hurt = share**2 * (0.3 if candidate.timing == "pre" or candidate.fine_tune else 0.6)
    return Measures(
        accuracy=0.95 - hurt,
        images=40,
        gini=0.5 + 0.2 * share,
        road_auc=0.4 - 0.1 * fast,
        road_auc_interval=(0.3, 0.5),
        latency_ms=2.0 * (1 - 0.8 * fast),
        latency_interval=(0.4, 2.0),
        baseline_ms=2.0,
        steady=True,
        moved=(),
        size_bytes=1_000_000 - round(500_000 * fast),
        classifier_sha256="0" * 64,
        parameters=1000,
        nonzero_parameters=1000,
        macs=1000,
    )


def record(number: int, candidate: Candidate = BASELINE, **changed: float) -> Record:
    found = msgspec.structs.replace(measures(candidate), **changed)
    return Record(number=number, candidate=candidate, state="done", measures=found)


@dataclass
class Watched:
    """A view that remembers."""

    started_with: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    resumed_with: int = 0

    def resumed(self, records: list[Record], known: list[Point]) -> None:
        self.resumed_with = len(records)

    def started(self, trial: Trial) -> None:
        self.started_with.append(trial.candidate.slug)

    def step(self, doing: str, done: float) -> None:
        assert 0 <= done <= 1

    def ended(self, record: Record, known: list[Point]) -> None:
        self.records.append(record)


@dataclass
class Formula:
    """A ``make`` by :func:`measures` that calls ``at`` before it measures the candidate of that number."""

    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    made: list[Candidate] = field(default_factory=list)

    def __call__(self, trial: Trial, baseline: Trial, setup: Setup, step: Step) -> Measures:
        if call := self.at.get(trial.number):
            call()
        self.made.append(trial.candidate)
        return measures(trial.candidate)


def start(
    out: Path,
    trials: int = 6,
    make: Make | None = None,
    limits: Limits | None = None,
    space: Space = SPACE,
    timeout: float | None = None,
    seed: int = 0,
) -> tuple[list[Record], Watched, str]:
    """Search in ``out`` as the command does, with formulae."""
    view, store = Watched(), Store(out)
    wanted = Search(msgspec.structs.replace(IDENTITY, seed=seed), space, limits or Limits(), trials, timeout)
    with workplace.alone(out, SearchStoppedError("running")), search.resumable(store):
        records, ended = search.run_search(wanted, SETUP, store, view, make or Formula())
    return sorted(records, key=lambda each: each.number), view, ended
