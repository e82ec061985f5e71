"""Training: epochs over batches, a checkpoint after each epoch, and a run at the end.

Every epoch derives its random numbers (order, augmentation, dropout, attacks) from the seed and its own number, so an
interrupted training continues on a CPU exactly as if it had never stopped. Processes that torchrun started together
train one network (toolkit.distributed); the first of them writes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edge_runtime.errors import DataError, RunError
from edge_runtime.folders import check_target
from edge_runtime.manifest import InputSpec
from edge_runtime.variant import Variant
from toolkit import checkpoint, distributed, evaluation, pruning, recipes, runs, structure
from toolkit.adversarial import channel_statistics
from toolkit.checkpoint import Plan
from toolkit.data import Dataset
from toolkit.data.loader import Placed, batch_sizes, iterate, place
from toolkit.distributed import Group
from toolkit.recipes import TrainConfig
from toolkit.runs import RunInfo
from toolkit.steps import Batch, Network, gradients, prepared

REPORT_EVERY = 10
"""Steps between progress reports: each one waits for the device and checks the loss."""


class TrainingStoppedError(RunError):
    """Ctrl-C during training; the checkpoint is kept."""

    exit_code = 130


class DivergedError(RunError):
    """A loss or weights that are not finite."""


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
    finite, TrainingStoppedError on Ctrl-C, DataError for data that does not fit, InputError for more processes than
    the batches have images for.
    """
    folder, group = Path(folder), distributed.current()
    check_output(folder, force=force)
    group.check_batch(config.batch)
    group.wait()  # all have looked before the first one writes
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
    group.check_same(msgspec.json.encode([info, config]))
    model = _placed(model, config, device)
    group.send(model.state_dict().values())
    session = _session(dataset, folder, plan, model, progress)
    if group.first:
        shutil.rmtree(runs.partial_folder(folder), ignore_errors=True)
    _keep(session)
    return _finish(session)


def check_output(folder: Path, *, force: bool = False) -> None:
    """Raise RunError unless :func:`train` may write the run ``folder``: for a check before the data are read."""
    check_target(folder, marker=runs.INFO, force=force, error=RunError)
    partial = runs.partial_folder(folder)
    if partial.exists() and not force:
        raise RunError(f"{partial} holds an unfinished training; continue with --resume or start over with --force")


def resume(folder: str | PathLike[str], dataset: Dataset, *, progress: Report | None = None) -> Trained:
    """Continue the unfinished training of ``folder`` after its last complete epoch, with the options it began with.

    Raises RunError where there is none, where ``dataset`` is not the one it began with, or where another run has
    taken its name since; InputError for more processes than its batches have images for.
    """
    folder = Path(folder)
    saved = checkpoint.load(runs.partial_folder(folder))
    plan = saved.header.plan
    check_target(folder, marker=runs.INFO, force=plan.replace, error=RunError)
    if dataset.digest != plan.info.dataset_digest:
        raise RunError(f"{folder} began with other images than {dataset.spec!r} now has; use {plan.dataset_spec!r}")
    distributed.current().check_batch(plan.config.batch)
    distributed.current().check_same(msgspec.json.encode([plan.info, plan.config, saved.header.history]))
    model = _placed(checkpoint.restore_model(saved), plan.config, recipes.device(plan.config))
    return _finish(_session(dataset, folder, plan, model, progress, saved))


def pending(folder: str | PathLike[str]) -> Plan:
    """Return what the unfinished training of ``folder`` is; raises RunError where there is none."""
    return checkpoint.load(runs.partial_folder(folder)).header.plan


def input_spec(dataset: Dataset) -> InputSpec:
    """Return the input that a classifier of ``dataset`` takes."""
    height, width = dataset.train.images.shape[1:3]
    return InputSpec(height=height, width=width, mean=dataset.mean, std=dataset.std)


def prepare(images: Tensor, spec: InputSpec) -> Tensor:
    """Turn images on the [0, 1] scale [N, 3, H, W] into the classifier's input, as edge_runtime.normalize does."""
    mean, std = channel_statistics(spec, images.device)
    return (images - mean) / std


def batches(placed: Placed, config: TrainConfig, spec: InputSpec, epoch: int, group: Group) -> Iterator[Batch]:
    """Yield this process's share of every batch of one epoch, augmented and normalised, in the device's layout."""
    layout = torch.channels_last if placed.device.type in config.channels_last else torch.contiguous_format
    sizes = batch_sizes(len(placed.labels), config.batch)
    pairs = iterate(
        placed,
        config.batch,
        seed=config.seed,
        epoch=epoch,
        augment=recipes.AUGMENTATIONS[config.augmentation],
        share=group.share,
    )
    for whole, (pixels, labels) in zip(sizes, pairs, strict=True):
        yield Batch(prepare(pixels, spec).contiguous(memory_format=layout), labels, whole)


@dataclass(frozen=True)
class _Session:
    """What an ongoing training needs; ``history`` grows by one row per epoch."""

    dataset: Dataset
    placed: Placed
    folder: Path
    plan: Plan
    network: Network
    optimizer: Optimizer
    history: list[dict[str, Any]]
    progress: Report | None

    @property
    def config(self) -> TrainConfig:
        return self.plan.config

    @property
    def model(self) -> nn.Module:
        return self.network.model

    @property
    def group(self) -> Group:
        return self.network.group


def _session(
    dataset: Dataset,
    folder: Path,
    plan: Plan,
    model: nn.Module,
    progress: Report | None,
    saved: checkpoint.Checkpoint | None = None,
) -> _Session:
    """Return a training at its beginning, or where the checkpoint ``saved`` leaves off."""
    group, config = distributed.current(), plan.config
    optimizer = recipes.OPTIMIZERS[config.optimizer](model.parameters(), config)
    history: list[dict[str, Any]] = []
    if saved is not None:
        checkpoint.restore_optimizer(saved, optimizer)
        history = list(saved.header.history)
    steps = len(batch_sizes(len(dataset.train), config.batch))
    network = prepared(model, config, plan.info.input, group, steps)
    placed = place(dataset.train, network.device)
    return _Session(dataset, placed, folder, plan, network, optimizer, history, progress if group.first else None)


def _finish(session: _Session) -> Trained:
    partial, group = runs.partial_folder(session.folder), session.group
    try:
        while len(session.history) < session.config.epochs:
            session.history.append(_epoch(session, len(session.history)))
            _keep(session)
    except KeyboardInterrupt:
        done = checkpoint.load(partial).header.epoch if group.first else len(session.history)
        raise TrainingStoppedError(
            f"stopped; {done} of {session.config.epochs} epochs are kept in {partial}: continue with --resume"
        ) from None
    model = session.model.cpu().to(memory_format=torch.contiguous_format)
    info = session.plan.info
    if group.first:
        info = runs.save(session.folder, model, info, force=session.plan.replace, history=session.history)
        shutil.rmtree(partial)
    else:
        pruning.make_permanent(model)
    group.wait()
    return Trained(model.eval(), info, session.history)


def _keep(session: _Session) -> None:
    if session.group.first:
        partial = runs.partial_folder(session.folder)
        checkpoint.save(partial, session.plan, session.history, session.model, session.optimizer)


def _epoch(session: _Session, epoch: int) -> dict[str, Any]:
    """Train one epoch, numbered from 0, and return its row of metrics."""
    started = time.perf_counter()
    config, device, group = session.config, session.network.device, session.group
    seed = int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0])
    session.model.train(config.train_mode_epochs is None or epoch < config.train_mode_epochs)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Dropout: the processes hold different images, and drop different units.
        torch.manual_seed(seed + group.rank)
        loss, correct = _steps(session, epoch, torch.Generator().manual_seed(seed))
    group.average_statistics(session.model)
    if not bool(torch.stack([parameter.isfinite().all() for parameter in session.model.parameters()]).all()):
        raise _diverged(session, epoch, "weights are not finite")
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "train_accuracy": correct,
        "validation_accuracy": _validated(session),
        "learning_rate": session.optimizer.param_groups[0]["lr"],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _steps(session: _Session, epoch: int, generator: torch.Generator) -> tuple[float, float]:
    """Take the optimiser's steps of one epoch; return mean loss and accuracy on the (augmented) training images."""
    config, network, group = session.config, session.network, session.group
    steps = len(batch_sizes(len(session.placed.labels), config.batch))
    total = torch.zeros(2, device=network.device, dtype=torch.float64)
    seen = 0
    for step, batch in enumerate(batches(session.placed, config, network.spec, epoch, group)):
        share = (epoch + step / steps) / config.epochs
        for entry in session.optimizer.param_groups:
            entry["lr"] = config.learning_rate * recipes.SCHEDULES[config.schedule](share)
        total += gradients(network, batch, generator)
        session.optimizer.step()
        seen += batch.whole
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            _report(session, epoch, step + 1, steps, float(group.summed(total)[0]) / seen)
    loss, correct = group.summed(total).tolist()
    return loss / seen, correct / seen


def _validated(session: _Session) -> float | None:
    """Return the accuracy on the validation images, of which every process counts a share; None without any."""
    held_out, group = session.dataset.validation, session.group
    if not len(held_out):
        return None
    own = held_out.take(np.arange(len(held_out))[group.share(len(held_out))])
    right = evaluation.correct(session.model, own, session.plan.info.input)
    counted = group.summed(torch.tensor(right, device=session.network.device))
    return int(counted) / len(held_out)


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
