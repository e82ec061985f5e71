"""The outcome of a search: the Pareto set, the recommended bundle, and what it gives on test images, as files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime.audit import AuditOptions, audit_bundle
from edge_runtime.bundle import CLASSIFIER, Bundle, open_bundle
from edge_runtime.errors import RoadworthyError, RunError
from edge_runtime.folders import new_file
from toolkit import pipeline
from toolkit.data import Dataset
from toolkit.report.tables import csv_text
from toolkit.select import recommend, trial
from toolkit.select.constraints import Limits, binding, explain, feasible, violated
from toolkit.select.measures import Point, Record, points
from toolkit.select.pareto import pareto
from toolkit.select.recommend import Choice
from toolkit.select.space import BASELINE, Candidate
from toolkit.select.store import Identity, Store, Trial, write_json
from toolkit.select.trial import Setup, Step, make_run

FORMAT = 1


class Tested(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The recommended network and the unpruned one on test images, which had no say in the choice.

    ``explained`` test images are the recommended bundle's audit set; ``bundle`` is its digest.
    """

    bundle: str
    images: int
    accuracy: float
    baseline_accuracy: float
    explained: int
    gini: float | None
    road_auc: float | None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One candidate in ``pareto.json``; figures are None where it failed."""

    number: int
    name: str
    candidate: Candidate
    state: str
    reason: str = ""
    run: str
    latency_ms: float | None = None
    latency_ratio: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    gini: float | None = None
    road_auc: float | None = None
    size_mb: float | None = None
    macs: int | None = None
    steady: bool | None = None
    feasible: bool = False
    misses: tuple[str, ...] = ()
    pareto: bool = False
    recommended: bool = False


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``pareto.json``: every candidate, the recommended one's number and the reasons, or why there is none.

    ``binding`` holds the smallest sets of limits without which some candidate would do; empty where one does. The
    Pareto set is that of the feasible candidates, or of all where none is feasible.
    """

    format: int = FORMAT
    search: Identity
    limits: Limits
    ended: str
    recommended: int | None
    reason: tuple[str, ...]
    binding: tuple[tuple[str, ...], ...]
    tested: Tested | None
    trials: tuple[Row, ...]


@dataclass(frozen=True)
class Judged:
    """What the limits make of the measurements."""

    records: tuple[Record, ...]
    points: tuple[Point, ...]
    limits: Limits
    front: tuple[Point, ...]
    choice: Choice | None

    @property
    def baseline(self) -> Point:
        return next(point for point in self.points if point.candidate == BASELINE)


def judge(records: Sequence[Record], limits: Limits) -> Judged:
    """Return the Pareto set and the recommendation."""
    ordered = tuple(sorted(records, key=lambda record: record.number))
    known = points(ordered)
    front = pareto(feasible(known, limits) or known)
    return Judged(ordered, tuple(known), limits, tuple(front), recommend.recommend(known, limits))


def recommended_bundle(judged: Judged, store: Store, setup: Setup, whole: Dataset, step: Step) -> Tested | None:
    """Put the recommended bundle into ``OUT/recommended`` and measure it on the test images of ``whole``, both once.

    The bundle is what ``roadworthy export`` makes of the chosen run: its audit set and its baselines come from the test
    images. Its classifier is the measured one, byte for byte; raises RunError where it is not. Without a recommendation
    an earlier one is removed.
    """
    if judged.choice is None:
        shutil.rmtree(store.recommended, ignore_errors=True)
        return None
    trials = {each.number: each for each in store.trials()}
    chosen, baseline = trials[judged.choice.point.number], trials[judged.baseline.number]
    known = _known_test(chosen, store)
    if known is not None:
        return known
    make_run(chosen, baseline, setup, step)
    step("exporting the recommended bundle", 0.0)
    how = setup.measuring
    path = pipeline.export(chosen.run, store.recommended, pipeline.Audited(whole, how.images), force=True)
    bundle, beside = open_bundle(path), open_bundle(baseline.bundle)
    _require_measured(bundle, chosen, judged.choice.point)
    tested = measure_test(bundle, beside, setup, whole, step)
    write_json(_test_file(chosen), tested)
    return tested


def measure_test(bundle: Bundle, beside: Bundle, setup: Setup, whole: Dataset, step: Step) -> Tested:
    """Measure ``bundle`` and the unpruned ``beside`` on what ``whole`` holds out."""
    how, test = setup.measuring, whole.held_out()
    step("measuring on test images", 0.0)
    options = AuditOptions(methods=(how.explainer,), provider=how.provider, threads=how.threads)
    audited = audit_bundle(bundle, options=options)
    found = audited.explainers[how.explainer]
    return Tested(
        bundle=bundle.digest,
        images=len(test),
        accuracy=trial.bundle_accuracy(bundle, test, how),
        baseline_accuracy=trial.bundle_accuracy(beside, test, how),
        explained=audited.images,
        gini=found.gini.mean,
        road_auc=None if found.road is None else found.road.morf_auc,
    )


def assemble(judged: Judged, identity: Identity, store: Store, ended: str, tested: Tested | None) -> Outcome:
    """Return what ``pareto.json`` says."""
    chosen = judged.choice
    if chosen is None:
        reason = tuple(explain(judged.points, judged.limits))
    else:
        reason = (*recommend.reasons(chosen, judged.baseline, judged.limits), *test_lines(tested))
    folders = {each.number: each for each in store.trials()}
    by_number = {point.number: point for point in judged.points}
    rows = [_row(record, by_number.get(record.number), folders[record.number], judged) for record in judged.records]
    return Outcome(
        search=identity,
        limits=judged.limits,
        ended=ended,
        recommended=None if chosen is None else chosen.point.number,
        reason=reason,
        binding=tuple(tuple(sorted(found.names)) for found in binding(judged.points, judged.limits)),
        tested=tested,
        trials=tuple(rows),
    )


def test_lines(tested: Tested | None) -> list[str]:
    """Return what the test images say, on one line."""
    if tested is None:
        return []
    line = (
        f"on {tested.images} test images, which had no say: accuracy {tested.accuracy:.2%} "
        f"(unpruned {tested.baseline_accuracy:.2%})"
    )
    if tested.gini is not None and tested.road_auc is not None:
        line += f"; on {tested.explained} of them Gini {tested.gini:.3f}, ROAD MoRF AUC {tested.road_auc:.3f}"
    return [line]


def write_outcome(outcome: Outcome, page: str, store: Store) -> None:
    """Write ``pareto.json``, ``pareto.csv`` and ``select.html``; raises RunError where the file system fails."""
    write_json(store.root / "pareto.json", outcome)
    names = [name for name in Row.__struct_fields__ if name not in ("candidate", "name")]
    parts = Candidate.__struct_fields__
    rows = (
        [*(_cell(getattr(row, name)) for name in names), *(getattr(row.candidate, part) for part in parts)]
        for row in outcome.trials
    )
    for name, text in (("pareto.csv", csv_text([*names, *parts], rows)), ("select.html", page)):
        _write(store.root / name, text)


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _write(path: Path, text: str) -> None:
    with new_file(path, force=True, error=RunError) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _row(record: Record, point: Point | None, folder: Trial, judged: Judged) -> Row:
    row = Row(
        number=record.number,
        name=record.candidate.label,
        candidate=record.candidate,
        state=record.state,
        reason=record.reason,
        run=f"trials/{folder.folder.name}/run",
    )
    if point is None or record.measures is None:
        return row
    missed = violated(point, judged.limits)
    return msgspec.structs.replace(
        row,
        latency_ms=point.latency_ms,
        latency_ratio=point.latency_ratio,
        accuracy=point.accuracy,
        accuracy_drop=point.drop,
        gini=point.gini,
        road_auc=point.road_auc,
        size_mb=point.size_mb,
        macs=record.measures.macs,
        steady=record.measures.steady,
        feasible=not missed,
        misses=tuple(sorted(missed)),
        pareto=point in judged.front,
        recommended=judged.choice is not None and judged.choice.point == point,
    )


def _test_file(chosen: Trial) -> Path:
    return chosen.folder / "test.json"


def _known_test(chosen: Trial, store: Store) -> Tested | None:
    """Return what was measured earlier, if the recommended bundle is still the one that it was measured on."""
    try:
        tested = msgspec.json.decode(_test_file(chosen).read_bytes(), type=Tested)
        return tested if open_bundle(store.recommended).digest == tested.bundle else None
    except (OSError, msgspec.DecodeError, RoadworthyError):
        return None


def _require_measured(bundle: Bundle, chosen: Trial, point: Point) -> None:
    assert point.measures is not None
    if bundle.manifest.files[CLASSIFIER].sha256 != point.measures.classifier_sha256:
        shutil.rmtree(bundle.path)
        raise RunError(
            f"{chosen.run} does not export to the classifier that was measured: run or exporter changed since; delete "
            f"{chosen.result} and start the same command again"
        )
