"""Make the cells of a study; whatever ends the work, the next start goes on where it stopped.

::

    OUT/runs/LABEL/          trained networks (toolkit.runs); LABEL.partial/ holds a checkpoint while training
    OUT/cells/LABEL.json     measurements, the last thing that a cell writes; LABEL.npz saliency of a few images
    OUT/logs/NAME.log        what happened, cell by cell
    OUT/.locks/             held while a network or a cell is being made, so that none is made twice
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from edge_runtime.errors import RoadworthyError, RunError
from edge_runtime.software import software_versions
from toolkit import checkpoint, evaluation, pipeline, recipes, runs, training, workplace
from toolkit.data import Dataset
from toolkit.pruning.steps import steps_folder
from toolkit.report.summary import Examples
from toolkit.study import measure
from toolkit.study.cells import Cell, ancestors
from toolkit.study.results import CellResult, read_examples, read_result, write_result
from toolkit.study.schema import Study

logger = logging.getLogger("toolkit")


class StudyStoppedError(RoadworthyError):
    """A study that cannot go on for now: the disk is full, or it is running already."""


class StudyInterruptedError(RoadworthyError):
    """Ctrl-C during a study."""

    exit_code = 130


@dataclass(frozen=True)
class Workplace:
    """Where a study keeps what."""

    root: Path

    def run(self, cell: Cell) -> Path:
        return self.root / "runs" / cell.run_label

    def result(self, cell: Cell) -> Path:
        return self.root / "cells" / f"{cell.label}.json"

    def log(self, cell: Cell) -> Path:
        return self.root / "logs" / f"{cell.name.replace('/', '-')}.log"

    def lock(self, label: str) -> Path:
        return self.root / ".locks" / label

    def clean(self) -> None:
        """Remove what a killed process had begun to write under a temporary name; only while nothing else runs here."""
        for folder in (self.root, self.root / "runs", self.root / "cells"):
            workplace.remove_leftovers(folder)

    def known(self, cell: Cell) -> CellResult | None:
        """Return the result of a cell that is done; None for one that is not, or whose files are damaged."""
        try:
            read_examples(self.result(cell))
            return read_result(self.result(cell))
        except RunError:
            return None

    def state(self, cell: Cell) -> str:
        """Return what there is of a cell: "done", "trained", "begun" (a checkpoint) or "new"."""
        if self.known(cell) is not None:
            return "done"
        if (self.run(cell) / runs.INFO).is_file():
            return "trained"
        return "begun" if (runs.partial_folder(self.run(cell)) / checkpoint.FILE).is_file() else "new"


class View(Protocol):
    """Whoever watches a study."""

    def started(self, cell: Cell) -> None: ...

    def step(self, cell: Cell, doing: str, done: float) -> None:
        """``doing`` says what, ``done`` is the share 0..1 of that."""

    def done(self, cell: Cell, seconds: float) -> None: ...

    def failed(self, cell: Cell, reason: str) -> None: ...


@dataclass
class Outcome:
    """What became of the cells: results of those that are done, reasons of those that failed, by name."""

    results: dict[str, CellResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How the work on a cell ended: "done" with its result, "failed", on a "full" disk, or "stopped" by Ctrl-C."""

    kind: Literal["done", "failed", "full", "stopped"]
    reason: str = ""
    result: CellResult | None = None
    seconds: float = 0.0


def run_cells(study: Study, cells: Sequence[Cell], datasets: Mapping[str, Dataset], out: Path, view: View) -> Outcome:
    """Make and measure ``cells`` in ``out``, one after the other; those that are done are skipped, and one that fails
    does not stop the others.

    Raises StudyStoppedError on a full disk or where another process runs a study in ``out``, StudyInterruptedError on
    Ctrl-C. Both leave everything in a state to go on from.
    """
    place, outcome = Workplace(out), Outcome()
    with alone(place):
        for cell in cells:
            if settled(cell, place, outcome, view):
                continue
            view.started(cell)
            enter(cell, attempt(study, cell, datasets[cell.subject.name], place, view), outcome, view)
    return outcome


@contextlib.contextmanager
def alone(place: Workplace) -> Iterator[None]:
    """Hold the whole study's folder, cleaned of what a killed process left; raises StudyStoppedError if it is taken."""
    busy = StudyStoppedError(f"a study is running in {place.root} already; wait for it or choose another --out")
    with workplace.alone(place.root, busy):
        place.clean()
        yield


@contextlib.contextmanager
def resumable(place: Workplace) -> Iterator[None]:
    """Turn a full disk into StudyStoppedError, which says how to go on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StudyStoppedError) or not workplace.disk_full(error):
            raise
        raise StudyStoppedError(
            f"the disk is full ({place.root}); make room and start the same command again to go on"
        ) from error


def settled(cell: Cell, place: Workplace, outcome: Outcome, view: View) -> bool:
    """Enter a cell that is done already, or that an ancestor's failure leaves out; tell whether it was one."""
    if (known := place.known(cell)) is not None:
        outcome.results[cell.name] = known
        return True
    reason = next((f"{above.name} failed" for above in ancestors(cell) if above.name in outcome.failures), None)
    if reason is not None:
        enter(cell, Ending("failed", reason), outcome, view)
    return reason is not None


def enter(cell: Cell, ending: Ending, outcome: Outcome, view: View) -> None:
    """Put the ending of a cell into ``outcome`` and tell the view; raises what stops the study."""
    if ending.kind == "stopped":
        raise StudyInterruptedError(f"stopped in {cell.name}; start the same command again to go on")
    if ending.kind == "full":
        raise StudyStoppedError(
            f"the disk is full ({cell.name}, {ending.reason}); make room and start the same command again to go on"
        )
    if ending.result is None:
        outcome.failures[cell.name] = ending.reason
        view.failed(cell, ending.reason)
    else:
        outcome.results[cell.name] = ending.result
        view.done(cell, ending.seconds)


def attempt(study: Study, cell: Cell, dataset: Dataset, place: Workplace, view: View) -> Ending:
    """Make one cell, unless another process does or has done so, and return how that ended; nothing is raised."""
    started = time.perf_counter()
    try:
        with workplace.held(place.lock(cell.label), _waiting(cell, view)):
            result = place.known(cell) or run_cell(study, cell, dataset, place, view)
    except (KeyboardInterrupt, training.TrainingStoppedError):
        return Ending("stopped")
    except Exception as error:
        if workplace.disk_full(error):
            return Ending("full", str(place.root))
        return Ending("failed", workplace.reason(error))
    return Ending("done", result=result, seconds=time.perf_counter() - started)


def run_cell(study: Study, cell: Cell, dataset: Dataset, place: Workplace, view: View) -> CellResult:
    """Make, measure and write one cell, and return its result. Raises what training, pruning and measuring raise."""
    with workplace.log_file(place.log(cell)) as remarks:
        try:
            logger.info("%s begins: network %s, measurements %s", cell.name, cell.run_key, cell.key)
            started = time.perf_counter()
            run = make_run(cell, dataset, place, view)
            trained = time.perf_counter() - started
            result = _measured(study, cell, dataset, run, view, trained, remarks)
            write_result(place.result(cell), *result)
            logger.info("%s is done: accuracy %.4f", cell.name, result[0].accuracy)
        except BaseException as error:
            logger.error("%s stopped: %s", cell.name, "".join(traceback.format_exception(error)).rstrip())
            raise
    return result[0]


def make_run(cell: Cell, dataset: Dataset, place: Workplace, view: View) -> Path:
    """Return the folder of the cell's trained network, after training, resuming or pruning as far as is needed."""
    run = place.run(cell)
    partial = runs.partial_folder(run)
    with workplace.held(place.lock(cell.run_label), _waiting(cell, view)):
        if runs.is_made(run):
            for leftover in (partial, steps_folder(run)):
                shutil.rmtree(leftover, ignore_errors=True)  # killed between the run's appearance and this
            return run
        parent = None if cell.parent is None else make_run(cell.parent, dataset, place, view)
        report = _training_report(cell, view)
        if partial.is_dir():
            try:
                training.resume(run, dataset, progress=report)
                return run
            except RunError as error:
                if isinstance(error, training.TrainingStoppedError | training.DivergedError) or workplace.disk_full(
                    error
                ):
                    raise
                logger.warning("the checkpoint cannot be used (%s); training starts over", error)
        _train(cell, dataset, run, parent, report)
    return run


def _waiting(cell: Cell, view: View) -> Callable[[], None]:
    return lambda: view.step(cell, "waiting for another process", 0.0)


def _train(cell: Cell, dataset: Dataset, run: Path, parent: Path | None, report: training.Report) -> None:
    strategy, subject = cell.strategy, cell.subject
    how = None
    if strategy.pruning != "none":
        how = strategy.how(cell.preset)
    if parent is not None:
        assert how is not None
        pipeline.prune(parent, run, how, dataset=dataset, fine_tune=cell.config, force=True, progress=report)
        return
    assert cell.config is not None
    pipeline.train(
        dataset,
        run,
        subject.architecture,
        cell.config,
        width=subject.width,
        prune=how,
        force=True,
        progress=report,
    )


def _measured(
    study: Study, cell: Cell, dataset: Dataset, run: Path, view: View, trained: float, remarks: list[str]
) -> tuple[CellResult, Examples | None]:
    model, info = runs.load(run)
    pipeline.check_labels(info, dataset)
    counts = evaluation.count(model, info.variant.input_size)
    device = recipes.device(cell.trained_by)
    found = measure.measure(
        model.to(device),
        info.input,
        dataset,
        study.evaluation,
        study.preset,
        lambda stage, done, total: view.step(cell, stage, done / total),
    )
    result = CellResult(
        name=cell.name,
        key=cell.key,
        run_key=cell.run_key,
        subject=cell.subject.name,
        strategy=cell.strategy.name,
        timing=cell.timing,
        seed=cell.seed,
        variant=info.variant,
        accuracy=found.accuracy,
        correct=found.correct,
        robust_accuracy=found.robust_accuracy,
        images=found.images,
        explainers=found.explainers,
        **asdict(counts),
        device=device.type,
        software=software_versions(),
        seconds={"training": round(trained, 3), **found.seconds},
        notes=tuple(remarks),
    )
    return result, found.examples


def _training_report(cell: Cell, view: View) -> training.Report:
    def report(state: training.Progress) -> None:
        done = ((state.epoch - 1) * state.steps + state.step) / (state.epochs * state.steps)
        view.step(cell, f"training, epoch {state.epoch} of {state.epochs}, loss {state.loss:.3f}", done)
        if state.step == state.steps:
            logger.info("epoch %d of %d: loss %.4f", state.epoch, state.epochs, state.loss)

    return report
