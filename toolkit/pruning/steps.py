"""Prune and fine-tune in turns: step i of n goes to i/n of the target, and trains its part of the epochs.

Every step is a run of its own beside the result, so that an interruption costs no more than the epoch it falls into::

    RUN.steps/request.json   what was asked for; leftovers of another request are not taken for this one's
    RUN.steps/1, 2 ...       runs of the steps, with their checkpoints while they train
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from edge_runtime.errors import InputError, RunError
from edge_runtime.folders import new_file
from edge_runtime.variant import Variant
from toolkit import pruning, runs, training
from toolkit.data import Dataset
from toolkit.pruning import Examples, Pruning
from toolkit.recipes import TrainConfig
from toolkit.runs import RunInfo
from toolkit.training import DivergedError, Progress, Report, TrainingStoppedError

REQUEST = "request.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to make: the run ``out`` of ``variant`` from the run ``run``; ``config.epochs`` are those of all steps."""

    run: Path
    out: Path
    how: Pruning
    variant: Variant
    config: TrainConfig

    @property
    def folder(self) -> Path:
        return steps_folder(self.out)

    @property
    def epochs(self) -> list[int]:
        """Epochs of each step, as even as can be; later steps, which have more to mend, get what is left over."""
        each, rest = divmod(self.config.epochs, self.how.steps)
        return [each + (step >= self.how.steps - rest) for step in range(self.how.steps)]


def prune_in_steps(
    request: Request,
    dataset: Dataset,
    examples: Examples | None = None,
    *,
    force: bool = False,
    progress: Report | None = None,
) -> RunInfo:
    """Prune and fine-tune in ``request.how.steps`` steps, and write the run ``request.out``.

    Started again after an interruption it goes on: steps that are done are not repeated, and the training of the one
    that is not continues after its last epoch. Each step has the recipe's whole learning rate schedule.

    Raises InputError for fewer epochs than steps, RunError where steps of another request are in the way (``force``
    removes them), TrainingStoppedError on Ctrl-C, and what pruning and training raise.
    """
    if request.config.epochs < request.how.steps:
        raise InputError(
            f"{request.config.epochs} epochs of fine-tuning cannot follow each of {request.how.steps} steps; "
            f"give at least {request.how.steps} epochs, or fewer steps"
        )
    _begin(request, dataset, force)
    original, info = runs.load(request.run)
    model, history = original, []
    for step in range(request.how.steps):
        model, info = _step(request, step, model, original, dataset, examples, progress)
        before = sum(request.epochs[:step])
        for row in runs.load_history(_stage(request, step)):
            history.append({**row, "epoch": before + row["epoch"], "step": step + 1})
    saved = runs.save(request.out, model, info, force=force, history=history)
    shutil.rmtree(request.folder)
    return saved


def steps_folder(out: Path) -> Path:
    """Return where the steps that lead to the run ``out`` are kept until it is there."""
    return out.with_name(f"{out.name}.steps")


def _step(
    request: Request,
    step: int,
    model: nn.Module,
    original: nn.Module,
    dataset: Dataset,
    examples: Examples | None,
    progress: Report | None,
) -> tuple[nn.Module, RunInfo]:
    """Return the network of ``step`` (from 0), made from that of the step before unless it is there already."""
    stage, report = _stage(request, step), _overall(request, step, progress)
    if (stage / runs.INFO).is_file():
        shutil.rmtree(runs.partial_folder(stage), ignore_errors=True)  # killed between the run's appearance and this
        return runs.load(stage)
    try:
        if not _resumed(stage, dataset, report):
            size, seed = request.variant.input_size, request.variant.seed
            pruned = pruning.apply(
                model,
                request.how,
                input_size=size,
                examples=examples,
                seed=seed,
                done=(step + 1) / request.how.steps,
                original=original,
            )
            config = replace(request.config, epochs=request.epochs[step])
            training.train(
                dataset,
                stage,
                config,
                request.variant,
                pruned.model,
                removed=pruned.removed,
                force=True,
                progress=report,
            )
    except TrainingStoppedError as error:
        raise TrainingStoppedError(
            f"stopped in step {step + 1} of {request.how.steps}; the same command goes on after the last whole epoch"
        ) from error
    return runs.load(stage)


def _resumed(stage: Path, dataset: Dataset, report: Report | None) -> bool:
    """Finish the training that was interrupted in ``stage``; False where there is none that can be."""
    if not runs.partial_folder(stage).is_dir():
        return False
    try:
        training.resume(stage, dataset, progress=report)
    except (TrainingStoppedError, DivergedError):
        raise
    except RunError as error:
        logger.warning("the checkpoint cannot be used (%s); the step starts over", error)
        return False
    return True


def _begin(request: Request, dataset: Dataset, force: bool) -> None:
    """Make the folder of the steps, or make sure that the one there is of the same request."""
    weights = (request.run / runs.WEIGHTS).read_bytes()
    content: dict[str, Any] = {
        "run": hashlib.sha256(weights).hexdigest(),
        "data": dataset.digest,
        "pruning": asdict(request.how),
        "variant": msgspec.to_builtins(request.variant),
        # The device changes the last bits, not what is asked for.
        "training": {**asdict(request.config), "device": None},
    }
    wanted = msgspec.json.format(msgspec.json.encode(content, order="deterministic"), indent=2) + b"\n"
    path = request.folder / REQUEST
    if request.folder.exists():
        if path.is_file() and path.read_bytes() == wanted:
            return
        if not force:
            raise RunError(
                f"{request.folder} holds steps of another pruning; --force starts over, or choose another --out"
            )
        shutil.rmtree(request.folder)
    try:
        request.folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{request.folder} cannot be written: {error.strerror}; choose another folder") from error
    with new_file(path, force=True, error=RunError) as temporary:
        temporary.write_bytes(wanted)


def _stage(request: Request, step: int) -> Path:
    return request.folder / str(step + 1)


def _overall(request: Request, step: int, progress: Report | None) -> Report | None:
    """Return a report that counts the epochs of all steps."""
    if progress is None:
        return None
    before, report = sum(request.epochs[:step]), progress

    def overall(state: Progress) -> None:
        report(replace(state, epoch=before + state.epoch, epochs=request.config.epochs))

    return overall
