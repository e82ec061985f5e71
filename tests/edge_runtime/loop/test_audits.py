"""Audits in slices: the same results as in one go, urgency, slots, and what becomes of jobs that are dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.explainer import Explainer, Explanation
from edge_runtime.loop.audits import Auditor, Held, Sample, road_window
from edge_runtime.loop.engine import Engine, EngineOptions
from edge_runtime.loop.schedule import ScheduleOptions
from edge_runtime.manifest import Method
from edge_runtime.metrics import ORDERS, PERCENTAGES, RoadCurve, image_areas, road
from edge_runtime.preprocess import normalize
from tests.edge_runtime.tiny_bundle import SPEC, images


@dataclass
class Notes:
    """A listener that writes down what it hears."""

    explanations: dict[tuple[str, str], Explanation] = field(default_factory=dict)
    areas: list[NDArray[np.float64]] = field(default_factory=list)
    records: list[Held] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def explained(self, sample: Sample, explanation: Explanation, milliseconds: float) -> None:
        assert milliseconds > 0
        self.explanations[sample.frame_id, explanation.method] = explanation

    def measured(self, method: Method, areas: NDArray[np.float64], milliseconds: float) -> None:
        self.areas.append(areas)

    def complete(self, held: Held) -> None:
        self.records.append(held)

    def failed(self, kind: str, reason: str) -> None:
        self.failures.append(reason)


def samples(bundle: Bundle, count: int) -> list[Sample]:
    shown = images(count)
    tensors = normalize(shown, SPEC)
    classifier = Classifier(bundle, threads=1)
    return [
        Sample(str(n), n, shown[n], tensors[n : n + 1], classifier.classify(tensors[n : n + 1]), {})
        for n in range(count)
    ]


def auditor(
    bundle: Bundle, notes: Notes, replay: bool, allows: Callable[[str], bool] = lambda kind: True, **options: object
) -> Auditor:
    engine = Engine(bundle, EngineOptions(threads=1, timeout=60))
    return Auditor(engine, ScheduleOptions(**options), notes, replay=replay, allows=allows)  # type: ignore[arg-type]


def never() -> bool:
    return False


@pytest.mark.parametrize("replay", [False, True])
def test_slices_give_what_one_go_gives(tiny: Bundle, replay: bool) -> None:
    notes = Notes()
    found = auditor(tiny, notes, replay, every=1, costly_every=1, budget=1.0, road_images=3, road_window=6)
    taken = samples(tiny, 6)
    for sample in taken:
        found.offer(sample)
        found.finish(never)
    assert not found.pending and not notes.failures
    explainer = Explainer(tiny, threads=1)
    for (name, method), explanation in notes.explanations.items():
        whole = explainer.explain(taken[int(name)].tensor, method, taken[int(name)].prediction.target)
        np.testing.assert_allclose(explanation.attribution, whole.attribution, rtol=1e-4, atol=1e-6)
    assert {method for _, method in notes.explanations} == {"vg", "ig", "sg"}
    (areas,) = notes.areas
    assert len(areas) == 3
    assert [held.sample.frame_id for held in notes.records] == [str(n) for n in range(6)]
    assert [window.order for window in notes.records[-1].road] == list(ORDERS)


def test_road_of_the_reservoir_is_that_of_the_metric(tiny: Bundle) -> None:
    notes = Notes()
    found = auditor(tiny, notes, True, methods=("vg",), every=100, road_images=4, road_window=4)
    taken = samples(tiny, 4)
    for sample in taken:
        found.offer(sample)
    found.finish(never)
    tensors = np.concatenate([sample.tensor for sample in taken])
    targets = np.concatenate([sample.prediction.target for sample in taken])
    saliency = Explainer(tiny, threads=1).explain(tensors, "vg", targets).saliency()
    classify = Classifier(tiny, threads=1).predict
    curves = {order: road(classify, tensors, saliency, targets, PERCENTAGES, order) for order in ORDERS}
    assert notes.records[-1].road == tuple(road_window(order, curve) for order, curve in curves.items())
    np.testing.assert_allclose(notes.areas[0], image_areas(curves["morf"], curves["lerf"]))


def test_a_slice_is_one_run_of_the_engine(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    found = auditor(tiny, notes, False, every=1, budget=1.0, road_images=1, road_window=1)
    runs = 0
    real = found._engine._supervisor.run

    def counted(*arguments: object) -> object:
        nonlocal runs
        runs += 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(found._engine._supervisor, "run", counted)
    sample = samples(tiny, 1)[0]
    found._engine.warm_up(("vg", "ig", "sg"))
    found.offer(sample)
    while found.pending:
        before = runs
        slot = found.next_slot(None, time.monotonic() + 1e6)
        if slot is not None:
            found.step(slot)
        assert runs - before <= 1
    assert found.done == {"vg": 1, "ig": 1, "road": 1}


def test_vg_goes_before_the_costly_and_before_road(tiny: Bundle) -> None:
    notes = Notes()
    found = auditor(tiny, notes, False, every=1, budget=1.0, road_images=1, road_window=1)
    found.offer(samples(tiny, 1)[0])
    order = []
    while found.pending:
        slot = found.next_slot(None, time.monotonic() + 1e6)
        if slot is not None:
            order.append(slot)
            found.step(slot)
    assert [slot for index, slot in enumerate(order) if slot not in order[:index]] == ["vg", "costly", "road"]
    assert order == sorted(order, key=["vg", "costly", "road"].index)


def test_a_taken_slot_and_the_ladder_skip_and_count(tiny: Bundle) -> None:
    notes = Notes()
    allowed = {"vg", "ig", "sg"}
    found = auditor(tiny, notes, False, lambda kind: kind in allowed, every=1, budget=0.0, road_images=1, road_window=1)
    first, second, third = samples(tiny, 3)
    found.offer(first)
    found.offer(second)  # the first one's VG still waits
    assert found.skipped == {"vg": 1, "road": 2}
    assert [held.sample.frame_id for held in notes.records] == ["1"]
    allowed.clear()
    found.forbid()
    assert not found.pending
    assert [held.sample.frame_id for held in notes.records] == ["1", "0"]
    found.offer(third)
    assert not found.pending


def test_nothing_is_lost_when_jobs_are_abandoned(tiny: Bundle) -> None:
    notes = Notes()
    found = auditor(tiny, notes, False, every=1, budget=1.0, road_images=1, road_window=1)
    found.offer(samples(tiny, 1)[0])
    found.step("vg")
    found.step("costly")
    found.step("road")
    found.abandon()
    assert not found.pending
    (held,) = notes.records
    assert [explanation.method for explanation in held.explanations] == ["vg"]


def test_a_slice_that_does_not_fit_waits_but_not_for_ever(tiny: Bundle) -> None:
    found = auditor(tiny, Notes(), False, methods=("vg",), every=1, road_images=0)
    for sample in samples(tiny, 2):
        found.offer(sample)
        if not sample.number:
            found.finish(never)
    now = time.monotonic()
    assert found.next_slot(0.0, now) is None
    assert found.next_slot(10.0, now) == "vg"
    assert found.next_slot(0.0, now + 60) == "vg"


def test_an_empty_road_window_has_no_scores() -> None:
    levels = len(PERCENTAGES)
    empty = RoadCurve(np.asarray(PERCENTAGES, np.float64), np.zeros((0, levels), np.bool_), np.zeros((0, levels)))
    window = road_window("morf", empty)
    assert (window.images, window.auc, window.scores) == (0, None, (None,) * levels)
