"""Training: epochs over batches, a checkpoint after each epoch, and a run at the end.

Every epoch derives its random numbers (order, augmentation, dropout, attacks) from the seed and its own number, so an
interrupted training continues on a CPU exactly as if it had never stopped.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from edge_runtime.errors import DataError, RunError
from edge_runtime.folders import check_target
from edge_runtime.manifest import InputSpec
from edge_runtime.variant import Variant
from toolkit import checkpoint, evaluation, pruning, recipes, runs, structure
from toolkit.adversarial import pgd
from toolkit.checkpoint import Plan
from toolkit.data import Dataset
from toolkit.data.loader import iterate
from toolkit.recipes import TrainConfig
from toolkit.runs import RunInfo

REPORT_EVERY = 10
"""Steps between progress reports: each one waits for the device and checks the loss."""
SMALLEST_PART = 2
"""Images: batch normalisation cannot take one alone."""


logger = logging.getLogger(__name__)


class TrainingStoppedError(RunError):
    """Ctrl-C during training; the checkpoint is kept."""

    exit_code = 130


class DivergedError(RunError):
    """A loss or weights that are not finite."""


@dataclass
class Memory:
    """Into how many parts a batch is cut so that it fits; their gradients add up to the whole batch's."""

    parts: int = 1


@dataclass(frozen=True)
class Progress:
    """Where a training stands: ``step`` of ``steps`` in ``epoch`` of ``epochs`` (both from 1), the mean loss of this
    epoch so far, and the last epoch's validation accuracy (None before, or without validation images)."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class Trained:
    """A finished run: the network in evaluation mode on the CPU, its description, and one row of metrics per epoch."""

    model: nn.Module
    info: RunInfo
    history: list[dict[str, Any]]


Report = Callable[[Progress], None]


def train(
    dataset: Dataset,
    folder: str | PathLike[str],
    config: TrainConfig,
    variant: Variant,
    model: nn.Module | None = None,
    *,
    removed: Mapping[str, float] | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> Trained:
    """Train into the run ``folder``, which appears when all epochs are done.

    ``variant`` describes the result. ``model`` is the network to start from, changed in place: a new one, a pruned one
    whose masks are kept, or one loaded from a run to fine-tune; without it the variant's architecture is built.
    ``removed`` is what pruning removed from it, for the run's description.

    A batch that does not fit into memory is halved, and again, with the gradients of its parts added up; a warning is
    logged, for batch normalisation then sees the parts.

    Raises RunError for an existing run or an unfinished one without ``force``, DivergedError for a loss that is not
    finite, TrainingStoppedError on Ctrl-C, DataError for data that does not fit.
    """
    folder = Path(folder)
    check_output(folder, force=force)
    partial = runs.partial_folder(folder)
    info = RunInfo(variant=variant, input=input_spec(dataset), labels=dataset.labels, dataset_digest=dataset.digest)
    _check_data(dataset, info)
    device = recipes.device(config)
    original = runs.pristine(info)
    if model is None:
        model = original
    elif variant.pruning in pruning.MASKING and not pruning.masked_weights(model):
        pruning.masks_from_zeros(model)
    info = RunInfo(
        variant=variant,
        input=info.input,
        labels=info.labels,
        dataset_digest=info.dataset_digest,
        structure=structure.difference(original, model),
        removed=dict(removed or {}),
    )
    plan = Plan(info=info, config=config, dataset_spec=dataset.spec, replace=force)
    model = _placed(model, config, device)
    optimizer = recipes.OPTIMIZERS[config.optimizer](model.parameters(), config)
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.save(partial, plan, [], model, optimizer)
    return _finish(_Session(dataset, folder, plan, model, optimizer, [], progress))


def check_output(folder: Path, *, force: bool = False) -> None:
    """Raise RunError unless :func:`train` may write the run ``folder``: for a check before the data are read."""
    check_target(folder, marker=runs.INFO, force=force, error=RunError)
    partial = runs.partial_folder(folder)
    if partial.exists() and not force:
        raise RunError(f"{partial} holds an unfinished training; continue with --resume or start over with --force")


def resume(folder: str | PathLike[str], dataset: Dataset, *, progress: Report | None = None) -> Trained:
    """Continue the unfinished training of ``folder`` after its last complete epoch, with the options it began with.

    Raises RunError where there is none, where ``dataset`` is not the one it began with, or where another run has
    taken its name since.
    """
    folder = Path(folder)
    saved = checkpoint.load(runs.partial_folder(folder))
    plan = saved.header.plan
    check_target(folder, marker=runs.INFO, force=plan.replace, error=RunError)
    if dataset.digest != plan.info.dataset_digest:
        raise RunError(f"{folder} began with other images than {dataset.spec!r} now has; use {plan.dataset_spec!r}")
    device = recipes.device(plan.config)
    model = _placed(checkpoint.restore_model(saved), plan.config, device)
    optimizer = recipes.OPTIMIZERS[plan.config.optimizer](model.parameters(), plan.config)
    checkpoint.restore_optimizer(saved, optimizer)
    return _finish(_Session(dataset, folder, plan, model, optimizer, list(saved.header.history), progress))


def pending(folder: str | PathLike[str]) -> Plan:
    """Return what the unfinished training of ``folder`` is; raises RunError where there is none."""
    return checkpoint.load(runs.partial_folder(folder)).header.plan


def input_spec(dataset: Dataset) -> InputSpec:
    """Return the input that a classifier of ``dataset`` takes."""
    height, width = dataset.train.images.shape[1:3]
    return InputSpec(height=height, width=width, mean=dataset.mean, std=dataset.std)


def prepare(images: Tensor, spec: InputSpec) -> Tensor:
    """Turn images on the [0, 1] scale [N, 3, H, W] into the classifier's input, as edge_runtime.normalize does."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return (images - mean) / std


@dataclass(frozen=True)
class _Session:
    """What an ongoing training needs; ``history`` grows by one row per epoch."""

    dataset: Dataset
    folder: Path
    plan: Plan
    model: nn.Module
    optimizer: Optimizer
    history: list[dict[str, Any]]
    progress: Report | None
    memory: Memory = field(default_factory=Memory)

    @property
    def config(self) -> TrainConfig:
        return self.plan.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def _finish(session: _Session) -> Trained:
    partial = runs.partial_folder(session.folder)
    try:
        while len(session.history) < session.config.epochs:
            session.history.append(_epoch(session, len(session.history)))
            checkpoint.save(partial, session.plan, session.history, session.model, session.optimizer)
    except KeyboardInterrupt:
        done = checkpoint.load(partial).header.epoch
        raise TrainingStoppedError(
            f"stopped; {done} of {session.config.epochs} epochs are kept in {partial}: continue with --resume"
        ) from None
    model = session.model.cpu().to(memory_format=torch.contiguous_format)
    info = runs.save(session.folder, model, session.plan.info, force=session.plan.replace, history=session.history)
    shutil.rmtree(partial)
    return Trained(model.eval(), info, session.history)


def _epoch(session: _Session, epoch: int) -> dict[str, Any]:
    """Train one epoch, numbered from 0, and return its row of metrics."""
    started = time.perf_counter()
    config, device = session.config, session.device
    seed = int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
    session.model.train(config.train_mode_epochs is None or epoch < config.train_mode_epochs)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        loss, correct = _steps(session, epoch, torch.Generator().manual_seed(seed))
    if not all(bool(parameter.isfinite().all()) for parameter in session.model.parameters()):
        raise _diverged(session, epoch, "weights are not finite")
    held_out, spec = session.dataset.validation, session.plan.info.input
    measured = evaluation.accuracy(session.model, held_out, spec) if len(held_out) else None
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "train_accuracy": correct,
        "validation_accuracy": measured,
        "learning_rate": session.optimizer.param_groups[0]["lr"],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _steps(session: _Session, epoch: int, generator: torch.Generator) -> tuple[float, float]:
    """Take the optimiser's steps of one epoch; return mean loss and accuracy on the (augmented) training images."""
    config, device = session.config, session.device
    steps = _step_count(len(session.dataset.train), config.batch)
    total = torch.zeros(2, device=device, dtype=torch.float64)
    seen = 0
    for step, (images, labels) in enumerate(_loaded(session, epoch)):
        share = (epoch + step / steps) / config.epochs
        for group in session.optimizer.param_groups:
            group["lr"] = config.learning_rate * recipes.SCHEDULES[config.schedule](share)
        total += _fitting(session, images, labels, generator)
        session.optimizer.step()
        seen += len(labels)
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            _report(session, epoch, step + 1, steps, float(total[0]) / seen)
    return float(total[0]) / seen, float(total[1]) / seen


def _fitting(session: _Session, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Do what :func:`_gradients` does, with the batch cut into as many parts as the memory asks for."""
    while True:
        try:
            return _gradients(session, images, labels, generator)
        except (RuntimeError, MemoryError) as error:
            size = -(-len(labels) // (2 * session.memory.parts))
            if not out_of_memory(error) or size < SMALLEST_PART:
                raise
        # Outside the handler, which would keep the failed step's tensors alive.
        session.memory.parts *= 2
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("out of memory: batches of %d go in parts of %d from now on", session.config.batch, size)


def _gradients(session: _Session, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Leave the gradients of the batch's mean loss in the parameters; return the sums of loss and of right answers."""
    config, model, device = session.config, session.model, session.device
    total = torch.zeros(2, device=device, dtype=torch.float64)
    session.optimizer.zero_grad(set_to_none=True)
    size = -(-len(labels) // session.memory.parts)
    for inputs, wanted in zip(images.split(size), labels.split(size), strict=True):
        if config.adversarial is not None:
            inputs = pgd(model, inputs, wanted, config.adversarial, session.plan.info.input, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.amp and device.type == "cuda"):
            logits = model(inputs)
            loss = F.cross_entropy(logits, wanted, label_smoothing=config.label_smoothing)
        (loss if len(wanted) == len(labels) else loss * (len(wanted) / len(labels))).backward()
        total += torch.stack([loss.detach() * len(wanted), (logits.argmax(1) == wanted).sum()])
    return total


def out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` is an allocation that failed, on any device; PyTorch has no type for the CPU's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _loaded(session: _Session, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised and augmented images with their labels on the device."""
    config, spec = session.config, session.plan.info.input
    batches = iterate(
        session.dataset.train,
        config.batch,
        seed=config.seed,
        epoch=epoch,
        augment=recipes.AUGMENTATIONS[config.augmentation],
        device=session.device,
    )
    layout = torch.channels_last if session.device.type in config.channels_last else torch.contiguous_format
    for pixels, labels in batches:
        yield prepare(pixels, spec).contiguous(memory_format=layout), labels


def _step_count(images: int, batch: int) -> int:
    """Return how many batches ``toolkit.data.loader.iterate`` makes: a single image left over joins the last one."""
    full, rest = divmod(images, batch)
    return max(1, full + (rest > 1))


def _report(session: _Session, epoch: int, step: int, steps: int, loss: float) -> None:
    if not np.isfinite(loss):
        raise _diverged(session, epoch, f"the loss became {loss}")
    if session.progress is not None:
        last = session.history[-1]["validation_accuracy"] if session.history else None
        session.progress(Progress(epoch + 1, session.config.epochs, step, steps, loss, last))


def _diverged(session: _Session, epoch: int, what: str) -> DivergedError:
    return DivergedError(
        f"{what} in epoch {epoch + 1} (learning rate {session.config.learning_rate:g}); lower the learning rate and "
        "start over"
    )


def _placed(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    layout = torch.channels_last if device.type in config.channels_last else torch.preserve_format
    return model.to(device).to(memory_format=layout)


def _check_data(dataset: Dataset, info: RunInfo) -> None:
    size = info.variant.input_size
    if len(dataset.train.labels) < 2:
        raise DataError(f"{dataset.spec} has {len(dataset.train.labels)} training images; training needs at least 2")
    if dataset.train.images.shape[1:] != (size, size, 3):
        found = "x".join(map(str, dataset.train.images.shape[1:3]))
        raise DataError(f"{dataset.spec} has images of {found} pixels, the variant wants {size}x{size}; load it so")
