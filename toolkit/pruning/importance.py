"""Which channels count least: torch-pruning's estimators, and the gradients that two of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_runtime.errors import InputError

Estimator = Callable[[Any], Tensor | None]
"""Maps a torch-pruning group to the importance [n] of its n channels; None where it cannot tell."""
BATCH = 16  # images whose gradients are computed at a time: 16 of 224 x 224 pixels fit beside any network here


@dataclass(frozen=True)
class Examples:
    """Training images for importances that need gradients: normalised ``images`` [N, 3, H, W], ``labels`` [N]."""

    images: Tensor
    labels: Tensor


def _magnitude(norm: int) -> Callable[[nn.Module], Estimator]:
    """Norm of a channel's weights: those that make it and those that read it (Li et al. 2017, over whole groups)."""

    def build(model: nn.Module) -> Estimator:
        from torch_pruning.pruner.importance import MagnitudeImportance

        return MagnitudeImportance(p=norm)

    return build


def _batch_norm(model: nn.Module) -> Estimator:
    """Scale of batch normalisation (Liu et al. 2017); channels that none follows are left alone."""
    from torch_pruning.pruner.importance import BNScaleImportance

    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise InputError(
            f"importance 'batch-norm' reads batch normalisation, of which {type(model).__name__} has none; "
            "use another importance, l2 for instance"
        )
    return BNScaleImportance()


def _lamp(model: nn.Module) -> Estimator:
    """Squared norm as a share of what is at least as large in its layer (Lee et al. 2021): made for global scope."""
    from torch_pruning.pruner.importance import LAMPImportance

    return LAMPImportance()


def _taylor(model: nn.Module) -> Estimator:
    """First-order change of the loss (Molchanov et al. 2019): |weight * gradient|."""
    from torch_pruning.pruner.importance import TaylorImportance

    return TaylorImportance()


def _hessian(model: nn.Module) -> Estimator:
    """Optimal brain damage (LeCun et al. 1989): weight^2 times the Fisher diagonal, which stands in ``.grad``."""
    from torch_pruning.pruner.importance import HessianImportance

    return HessianImportance()


def _random(model: nn.Module) -> Estimator:
    """Chance, for comparison."""
    from torch_pruning.pruner.importance import RandomImportance

    return RandomImportance()


ESTIMATORS: dict[str, Callable[[nn.Module], Estimator]] = {
    "l2": _magnitude(2),
    "l1": _magnitude(1),
    "taylor": _taylor,
    "batch-norm": _batch_norm,
    "lamp": _lamp,
    "hessian": _hessian,
    "random": _random,
}


def _mean_gradient(model: nn.Module, examples: Examples) -> None:
    """Leave the gradient of the mean cross-entropy in the parameters."""
    for images, labels in zip(examples.images.split(BATCH), examples.labels.split(BATCH), strict=True):
        loss = F.cross_entropy(model(images), labels, reduction="sum") / len(examples.labels)
        loss.backward()


def _mean_squared_gradient(model: nn.Module, examples: Examples) -> None:
    """Leave the mean over the images of their squared gradients in the parameters: the empirical Fisher's diagonal.

    torch-pruning's own accumulation keeps the last image only: it looks gradients up by name and stores them by tensor.
    """
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for image, label in zip(examples.images.split(1), examples.labels.split(1), strict=True):
        loss = F.cross_entropy(model(image), label)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                sum_.addcmul_(gradient, gradient)
    for parameter, sum_ in zip(parameters, total, strict=True):
        parameter.grad = sum_ / len(examples.labels)


GRADIENTS: dict[str, Callable[[nn.Module, Examples], None]] = {
    "taylor": _mean_gradient,
    "hessian": _mean_squared_gradient,
}
"""The importances that read ``.grad``, with what they want to find there."""


@contextmanager
def estimator(model: nn.Module, importance: str, examples: Examples | None, seed: int) -> Iterator[Estimator]:
    """Yield the estimator ``importance`` for ``model``, which is in evaluation mode; gradients are gone afterwards.

    ``seed`` decides the random importance. Raises InputError where examples or batch normalisation are missing.
    """
    built = ESTIMATORS[importance](model)
    if importance in GRADIENTS:
        if examples is None or not len(examples.labels):
            raise InputError(f"importance {importance!r} needs training images; pass --data, or use l2")
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            GRADIENTS[importance](model, examples)
        for parameter in model.parameters():
            if parameter.grad is None:  # a parameter that the logits do not depend on
                parameter.grad = torch.zeros_like(parameter)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield built
    finally:
        model.zero_grad(set_to_none=True)
