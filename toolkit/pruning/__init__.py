"""Pruning: masks that zero weights (the paper's three, and 2:4), and channels that are really removed."""

from __future__ import annotations

from torch import nn

from toolkit.pruning.importance import GRADIENTS, Examples
from toolkit.pruning.masks import (
    MASKS,
    layer_shares,
    make_permanent,
    masked_weights,
    masks_from_zeros,
    prunable_layers,
    set_masks,
    unmasked_copy,
)
from toolkit.pruning.settings import (
    CHANNEL,
    DEFAULT_PRESET,
    IMPORTANCES,
    MASKING,
    MAX_ROUND_TO,
    MAX_STEPS,
    METHODS,
    PRESETS,
    SCOPES,
    SEMI_STRUCTURED,
    TARGETS,
    Pruning,
    Shares,
    preset_shares,
)
from toolkit.pruning.targets import Pruned, prune_channels

__all__ = [
    "CHANNEL",
    "DEFAULT_PRESET",
    "GRADIENTS",
    "IMPORTANCES",
    "MASKING",
    "MAX_ROUND_TO",
    "MAX_STEPS",
    "METHODS",
    "PRESETS",
    "SCOPES",
    "SEMI_STRUCTURED",
    "TARGETS",
    "Examples",
    "Pruned",
    "Pruning",
    "Shares",
    "apply",
    "make_permanent",
    "masked_weights",
    "masks_from_zeros",
    "preset_shares",
    "prunable_layers",
    "prune",
    "set_masks",
    "unmasked_copy",
]


def prune(
    model: nn.Module,
    method: str,
    amount: float | None = None,
    *,
    input_size: int = 32,
    preset: str = DEFAULT_PRESET,
) -> nn.Module:
    """Return a copy of ``model`` pruned by ``method`` with its default options; see :func:`apply`."""
    return apply(model, Pruning(method, amount, preset), input_size=input_size).model


def apply(
    model: nn.Module,
    how: Pruning,
    *,
    input_size: int = 32,
    examples: Examples | None = None,
    seed: int = 0,
    done: float = 1.0,
    original: nn.Module | None = None,
) -> Pruned:
    """Return a pruned copy of ``model``, which stays as it is.

    Masks stay in force during training until :func:`make_permanent`; channels are gone, never the outputs.
    ``examples`` are training images for importances that need gradients, ``seed`` decides the random one. ``done``
    (0..1) is the part of the target to reach now; it is counted from ``original``, the network before any pruning
    (by default ``model``). Raises InputError for a network that cannot be pruned so, or not so far.
    """
    pruned = unmasked_copy(model)
    if how.method != CHANNEL:
        MASKS[how.method](pruned, layer_shares(pruned, how.shares(done)))
        return Pruned(pruned)
    return prune_channels(
        pruned, how, input_size=input_size, examples=examples, seed=seed, done=done, original=original
    )
