"""The steps from images to a bundle, each with the variant that it leads to; commands and demo call these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from calibration.sampling import balanced_sample
from edge_runtime.bundle import AuditSet
from edge_runtime.errors import BundleError, InputError, unknown
from edge_runtime.folders import check_target
from edge_runtime.manifest import MANIFEST
from edge_runtime.preprocess import normalize
from edge_runtime.variant import Variant
from export.bundle import GOLDEN_IMAGES, Contents, write_bundle
from export.flips import check_gradient_parity
from export.parity import check_parity, random_images
from export.to_onnx import to_onnx, torch_gradient, torch_logits
from toolkit import evaluation, models, pruning, runs, training
from toolkit.adversarial import PgdConfig
from toolkit.data import Dataset
from toolkit.pruning import Examples, steps
from toolkit.pruning import Pruning as Pruning
from toolkit.recipes import TrainConfig
from toolkit.runs import RunInfo
from toolkit.training import Report, Trained

AUDIT_IMAGES = 100
# A parity check also sees what no data set holds: noise drives the logits further apart than signs do.
NOISE_IMAGES = 4
# Of the golden set and of the noise each, for the comparison of gradients: a flipped unit costs up to seconds an image.
GRADIENT_IMAGES = 2
# Training images whose loss says what a channel is worth: seconds of work even at 224 x 224 pixels.
PRUNING_IMAGES = 64


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A run on held-out images; ``sparsity`` is the share of zeros in convolutions and fully connected layers."""

    run: str
    variant: Variant
    images: int
    accuracy: float
    robust_accuracy: float | None
    parameters: int
    nonzero_parameters: int
    macs: int
    sparsity: float


@dataclass(frozen=True)
class Audited:
    """What a bundle carries for audits: ``dataset``, images of its audit set, and whether to measure baselines."""

    dataset: Dataset
    images: int = AUDIT_IMAGES
    baselines: bool = True


def train(
    dataset: Dataset,
    out: Path,
    architecture: str,
    config: TrainConfig,
    *,
    width: float = 1.0,
    prune: Pruning | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> Trained:
    """Train ``architecture`` on ``dataset`` into the run ``out``; with ``prune``, its initial weights are pruned first.

    Raises what :func:`toolkit.training.train` does.
    """
    size = dataset.train.images.shape[1]
    variant = Variant(
        dataset=dataset.name,
        architecture=architecture,
        width=width,
        input_size=size,
        training="natural" if config.adversarial is None else "adversarial",
        eps=0.0 if config.adversarial is None else config.adversarial.eps,
        seed=config.seed,
    )
    if prune is None:
        return training.train(dataset, out, config, variant, force=force, progress=progress)
    model = models.build(architecture, len(dataset.labels), width=width, input_size=size, seed=config.seed)
    if prune.steps > 1:
        raise InputError(f"steps {prune.steps} need fine-tuning between them; prune a trained run, or use 1 step")
    examples = pruning_examples(prune, dataset, config.seed)
    pruned = pruning.apply(model, prune, input_size=size, examples=examples, seed=config.seed)
    variant = _pruned(variant, prune, "pre", None)
    return training.train(
        dataset, out, config, variant, pruned.model, removed=pruned.removed, force=force, progress=progress
    )


def prune(
    run: Path,
    out: Path,
    how: Pruning,
    *,
    dataset: Dataset | None = None,
    fine_tune: TrainConfig | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> RunInfo:
    """Prune the trained run ``run`` into the run ``out``, and fine-tune it on ``dataset`` where a config says how.

    A config with an attack fine-tunes adversarially. More than one step is what :mod:`toolkit.pruning.steps` does.
    ``dataset`` is also where importances that need gradients take their images from, of the training part.

    Raises RunError for a run that cannot be read or written, InputError for a network that is pruned already or cannot
    be pruned so.
    """
    training.check_output(out, force=force)
    model, info = runs.load(run)
    if info.variant.pruning != "none":
        raise InputError(f"{run} is pruned already ({info.variant.label}); prune the run that it came from")
    if fine_tune is None and how.steps > 1:
        raise InputError(f"steps {how.steps} need fine-tuning between them; fine-tune, or use 1 step")
    if dataset is not None:
        check_labels(info, dataset)
    elif fine_tune is not None:
        raise InputError("fine-tuning needs the data; pass --data, or --fine-tune 0")
    variant = _pruned(info.variant, how, "post", fine_tune)
    examples = pruning_examples(how, dataset, variant.seed)
    config = None if fine_tune is None else replace(fine_tune, seed=variant.seed)
    if config is not None and dataset is not None and how.steps > 1:
        request = steps.Request(run, out, how, variant, config)
        return steps.prune_in_steps(request, dataset, examples, force=force, progress=progress)
    pruned = pruning.apply(model, how, input_size=variant.input_size, examples=examples, seed=variant.seed)
    if config is None or dataset is None:
        info = msgspec.structs.replace(info, variant=variant, removed=pruned.removed)
        return runs.save(out, pruned.model, info, force=force)
    return training.train(
        dataset, out, config, variant, pruned.model, removed=pruned.removed, force=force, progress=progress
    ).info


def export(run: Path, out: Path, audited: Audited | None = None, *, force: bool = False) -> Path:
    """Make the run ``run`` into the bundle ``out``.

    With ``audited``, golden set and audit set are class-balanced samples of its held-out images; without, the golden
    images are noise. Raises ExportError where the exported network does not say what the original says.
    """
    check_target(out, marker=MANIFEST, force=force, error=BundleError)
    model, info = runs.load(run)
    size = (info.input.height, info.input.width)
    golden = random_images(GOLDEN_IMAGES, size)
    audit_set = None
    if audited is not None:
        check_labels(info, audited.dataset)
        split = audited.dataset.held_out()
        golden = normalize(split.take(balanced_sample(split.labels, GOLDEN_IMAGES)).images, info.input)
        sample = split.take(balanced_sample(split.labels, audited.images))
        audit_set = AuditSet(images=sample.images, labels=sample.labels)
    classifier = to_onnx(model, input_size=size)
    noise = random_images(NOISE_IMAGES, size)
    check_parity(torch_logits(model), classifier, np.concatenate([golden, noise]))
    few = np.concatenate([golden[:GRADIENT_IMAGES], noise[:GRADIENT_IMAGES]])
    unfolded = partial(to_onnx, model, input_size=size, fold=False)
    parity = check_gradient_parity(torch_gradient(model), classifier, few, unfolded=unfolded)
    contents = Contents(
        name=info.variant.slug,
        input=info.input,
        labels=info.labels,
        golden_images=golden,
        variant=info.variant,
        audit_set=audit_set,
        baselines=audited is not None and audited.baselines,
        dataset_digest=info.dataset_digest,
        gradient_parity=parity,
    )
    return write_bundle(out, classifier, contents, force=force)


def evaluate(run: Path, dataset: Dataset, attack: PgdConfig | None = None) -> Measured:
    """Measure ``run`` with PyTorch on the images of ``dataset`` that were held out."""
    model, info = runs.load(run)
    check_labels(info, dataset)
    split = dataset.held_out()
    counts = evaluation.count(model, info.variant.input_size)
    return Measured(
        run=str(run),
        variant=info.variant,
        images=len(split),
        accuracy=evaluation.accuracy(model, split, info.input),
        robust_accuracy=None if attack is None else evaluation.robust_accuracy(model, split, info.input, attack),
        parameters=counts.parameters,
        nonzero_parameters=counts.nonzero_parameters,
        macs=counts.macs,
        sparsity=counts.sparsity,
    )


def check_architecture(name: str) -> None:
    """Raise InputError for a name that :func:`models.build` does not know, before any data are read."""
    if name not in models.names():
        raise unknown("model", name, models.names())


def check_labels(info: RunInfo, dataset: Dataset) -> None:
    """Raise InputError unless the run and the data set have the same classes in the same order."""
    if info.labels != dataset.labels:
        raise InputError(
            f"{dataset.spec} has {len(dataset.labels)} classes, the run was trained on {len(info.labels)} others "
            f"({info.variant.dataset}); pass the data that it was trained on"
        )


def pruning_examples(how: Pruning, dataset: Dataset | None, seed: int) -> Examples | None:
    """Return the training images that ``how`` needs: a random sample by ``seed``; None without need or data."""
    if how.importance not in pruning.GRADIENTS or dataset is None:
        return None
    split = dataset.train
    chosen = np.random.default_rng(seed).permutation(len(split))[:PRUNING_IMAGES]
    sample = split.take(np.sort(chosen))
    images = normalize(sample.images, training.input_spec(dataset))
    return Examples(torch.from_numpy(images), torch.from_numpy(sample.labels))


def _pruned(variant: Variant, how: Pruning, timing: str, fine_tune: TrainConfig | None) -> Variant:
    attack = fine_tune.adversarial if fine_tune is not None else None
    return msgspec.structs.replace(
        variant,
        pruning=how.method,
        amount=how.share,
        timing=timing,
        importance=how.importance,
        scope=how.scope,
        target=how.target,
        round_to=how.round_to,
        steps=how.steps,
        fine_tune_epochs=0 if fine_tune is None else fine_tune.epochs,
        fine_tune_eps=0.0 if attack is None else attack.eps,
    )
