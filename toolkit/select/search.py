"""The search: propose, make, measure, remember; whatever ends it, the next start goes on where it stopped."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError, RoadworthyError, RunError
from edge_runtime.software import software_versions
from toolkit import training, workplace
from toolkit.select import trial as trials
from toolkit.select.constraints import Limits
from toolkit.select.measures import Measures, Point, Record, points
from toolkit.select.proposals import Proposals, proposals
from toolkit.select.recommend import recommend
from toolkit.select.space import BASELINE, Candidate, Space
from toolkit.select.store import Identity, Store, Trial, write_json
from toolkit.select.trial import Setup, Step

logger = logging.getLogger("toolkit")

Make = Callable[[Trial, Trial, Setup, Step], Measures]
"""Makes and measures a candidate; its second argument is the baseline."""


class SearchStoppedError(RoadworthyError):
    """A search that cannot go on for now: the disk is full, or it is running already."""


class SearchInterruptedError(RoadworthyError):
    """Ctrl-C during a search."""

    exit_code = 130


class View(Protocol):
    """Whoever watches a search."""

    def resumed(self, records: list[Record], known: list[Point]) -> None:
        """``records`` are there from an earlier start."""

    def started(self, trial: Trial) -> None: ...

    def step(self, doing: str, done: float) -> None:
        """``doing`` says what, ``done`` is the share 0..1 of that."""

    def ended(self, record: Record, known: list[Point]) -> None:
        """``known`` holds every measured candidate, this one included; one that is timed again ends again."""


@dataclass(frozen=True)
class Search:
    """What is searched, and for how long: ``trials`` candidates beside the unpruned network, none begun after
    ``timeout`` seconds."""

    identity: Identity
    space: Space
    limits: Limits
    trials: int
    timeout: float | None = None


def run_search(
    search: Search, setup: Setup, store: Store, view: View, make: Make | None = None
) -> tuple[list[Record], str]:
    """Measure candidates until there are as many as asked for, and return all records and why it ended.

    A candidate that fails is recorded with its reason and not tried again; without the unpruned network there is no
    search: RunError. Call it alone in the folder (``workplace.alone``) and inside of :func:`resumable`.
    """
    make = make or make_and_measure
    store.clean()
    store.claim(search.identity)
    started = time.monotonic()
    found = store.trials()
    records = {trial.number: record for trial in found if (record := trial.record()) is not None}
    baseline = next((trial for trial in found if trial.candidate == BASELINE), None) or store.begin(0, BASELINE)
    open_trials = [trial for trial in found if trial.number not in records and trial != baseline]
    if records:
        view.resumed(list(records.values()), points(list(records.values())))
    if baseline.number not in records:
        records[baseline.number] = run_trial(baseline, baseline, setup, view, make, records)
        require_measured(records[baseline.number])
    else:
        restore_bundle(baseline, setup, view.step)
    proposed = proposals(store.journal, search.space, search.limits, search.identity.seed)
    while True:
        proposed.learn(list(records.values()), by_number(records))
        if ended := why_ended(search, len(records) + len(open_trials), started, bool(open_trials)):
            return list(records.values()), ended
        trial = open_trials.pop(0) if open_trials else next_trial(store, proposed, records)
        if trial is None:
            return list(records.values()), "every candidate is measured"
        records[trial.number] = run_trial(trial, baseline, setup, view, make, records)


def confirm(search: Search, setup: Setup, store: Store, view: View, records: list[Record]) -> list[Record]:
    """Return the records after the recommended candidate has kept its place in a fresh and longer benchmark.

    The fastest of many measurements was also the luckiest. One that loses its place makes room for the next, which is
    measured again in turn.
    """
    folders = {trial.number: trial for trial in store.trials()}
    while True:
        choice = recommend(points(records), search.limits)
        chosen = next((each for each in records if choice is not None and each.number == choice.point.number), None)
        if chosen is None or chosen.measures is None or chosen.confirmed or chosen.candidate == BASELINE:
            return records
        trial, baseline = folders[chosen.number], next(each for each in folders.values() if each.candidate == BASELINE)
        view.started(trial)
        measures = timed_again(trial, baseline, setup, chosen.measures, view.step)
        again = msgspec.structs.replace(chosen, measures=measures, confirmed=True)
        write_json(trial.result, again)
        records = [again if each is chosen else each for each in records]
        view.ended(again, points(records))


def timed_again(trial: Trial, baseline: Trial, setup: Setup, measures: Measures, step: Step) -> Measures:
    """Return ``measures`` with a fresh latency; the bundle is exported anew for that."""
    beside = restore_bundle(baseline, setup, step)
    trials.make_run(trial, baseline, setup, step)
    step("exporting", 0.0)
    bundle = trials.export(trial, setup)
    try:
        return trials.timed_again(bundle, beside, setup, measures, step)
    finally:
        shutil.rmtree(trial.bundle, ignore_errors=True)


@contextlib.contextmanager
def resumable(store: Store) -> Iterator[None]:
    """Turn Ctrl-C into SearchInterruptedError and a full disk into SearchStoppedError, which say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, training.TrainingStoppedError):
        raise SearchInterruptedError(
            f"stopped; what is measured is kept in {store.root}: start the same command again to go on"
        ) from None
    except Exception as error:
        if workplace.disk_full(error):
            raise SearchStoppedError(
                f"the disk is full ({store.root}); make room and start the same command again to go on"
            ) from error
        raise


def why_ended(search: Search, begun: int, started: float, unfinished: bool) -> str:
    """Return why no candidate is begun any more; nothing where one is."""
    if not unfinished and begun > search.trials:
        return f"as many candidates as asked for: {search.trials}, beside the unpruned network"
    if search.timeout is not None and time.monotonic() - started >= search.timeout:
        return f"{search.timeout:g} seconds are over"
    return ""


def next_trial(store: Store, proposed: Proposals, records: dict[int, Record]) -> Trial | None:
    """Return the folder of a candidate that was not measured before; None where none is left."""
    candidate: Candidate | None = proposed.propose({record.candidate for record in records.values()})
    return None if candidate is None else store.begin(1 + max(records), candidate)


def run_trial(
    trial: Trial, baseline: Trial, setup: Setup, view: View, make: Make, records: dict[int, Record]
) -> Record:
    """Make, measure and record one candidate. Raises only what ends the search."""
    view.started(trial)
    started = time.monotonic()
    with workplace.log_file(trial.log) as remarks:
        logger.info("trial %d begins: %s", trial.number, trial.candidate.label)
        try:
            measures = make(trial, baseline, setup, view.step)
        except Exception as error:
            logger.error("stopped: %s", "".join(traceback.format_exception(error)).rstrip())
            if workplace.disk_full(error) or isinstance(error, training.TrainingStoppedError):
                raise
            record = Record(
                number=trial.number, candidate=trial.candidate, state="failed", reason=workplace.reason(error)
            )
        else:
            record = Record(
                number=trial.number,
                candidate=trial.candidate,
                state="done",
                measures=measures,
                seconds={"all": round(time.monotonic() - started, 3)},
                software=software_versions(),
                notes=tuple(remarks),
            )
            logger.info("done: accuracy %.4f, latency %.4g ms", measures.accuracy, measures.latency_ms)
    if trial != baseline or record.state == "done":
        write_json(trial.result, record)
    view.ended(record, points([*records.values(), record]))
    return record


def make_and_measure(trial: Trial, baseline: Trial, setup: Setup, step: Step) -> Measures:
    """Train or prune, export, and measure beside the baseline's bundle; only that one is kept afterwards."""
    trials.make_run(trial, baseline, setup, step)
    step("exporting", 0.0)
    bundle = trials.export(trial, setup)
    beside = None if trial == baseline else open_bundle(baseline.bundle)
    try:
        if beside is not None:
            trials.require_pruned(bundle, beside)
        return trials.measure(bundle, beside, setup, step)
    finally:
        if trial != baseline:
            shutil.rmtree(trial.bundle, ignore_errors=True)


def restore_bundle(baseline: Trial, setup: Setup, step: Step) -> Bundle:
    """Return the bundle of the measured baseline; that and the network are made anew where damaged or deleted."""
    trials.make_run(baseline, baseline, setup, step)
    try:
        return open_bundle(baseline.bundle)
    except BundleError:
        return trials.export(baseline, setup)


def require_measured(baseline: Record) -> None:
    if baseline.state == "failed":
        raise RunError(f"the unpruned network failed, and there is nothing to compare with: {baseline.reason}")


def by_number(records: dict[int, Record]) -> dict[int, Point]:
    return {point.number: point for point in points(list(records.values()))}
