"""The paper's three maskings (weights become zero) and ours, which really removes channels."""

from __future__ import annotations

import contextlib
import copy
import resource
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from edge_runtime.errors import InputError, unknown
from toolkit import models

DEFAULT_PRESET = "paper"
MEMORY_LIMIT = 4 << 30
"""Bytes that the dependency analysis may take on top: on Swin it grew past 24 GB before it was stopped."""


@dataclass(frozen=True)
class Shares:
    """Share of weights (l1, global), filters (layered) or channels to prune, by kind of layer."""

    convolution: float
    hidden: float
    output: float


# "hidden" are the fully connected layers before the last one, "output" is the last one (PROTOCOL, pruning table).
PRESETS: dict[str, dict[str, Shares]] = {
    "paper": {
        "l1": Shares(0.2, 0.0, 0.1),
        "global": Shares(0.2, 0.2, 0.2),
        "layered": Shares(0.1, 0.1, 0.0),
        "channel": Shares(0.5, 0.5, 0.0),
    },
    "authors-code": {
        "l1": Shares(0.2, 0.1, 0.1),
        "global": Shares(0.2, 0.2, 0.2),
        "layered": Shares(0.1, 0.1, 0.1),
        "channel": Shares(0.5, 0.5, 0.0),
    },
}

Targets = Sequence[tuple[nn.Module, float]]


def prune(
    model: nn.Module,
    method: str,
    amount: float | None = None,
    *,
    input_size: int = 32,
    preset: str = DEFAULT_PRESET,
) -> nn.Module:
    """Return a pruned copy of ``model``, which stays as it is.

    ``method`` is a key of :data:`METHODS`; ``amount`` is the share pruned from convolutions (the preset's by default),
    to which the shares of the other layers keep the preset's ratio. l1, global and layered set masks that stay in
    force during training until :func:`make_permanent`; channel removes channels, in multiples of 8, never the
    outputs. Raises InputError for unknown names, an amount outside (0, 1) or a network that cannot be pruned so.
    """
    if method not in METHODS:
        raise unknown("pruning method", method, METHODS)
    shares = _scaled(preset_shares(method, preset), amount)
    pruned = unmasked_copy(model)
    METHODS[method](pruned, _targets(pruned, shares), input_size)
    return pruned


def preset_shares(method: str, preset: str = DEFAULT_PRESET) -> Shares:
    """Return what ``preset`` prunes with ``method``; raises InputError for an unknown preset."""
    if preset not in PRESETS:
        raise unknown("pruning preset", preset, PRESETS)
    return PRESETS[preset][method]


def make_permanent(model: nn.Module) -> None:
    """Turn masks into stored zeros, in place."""
    for module, name in masked_weights(model):
        masks.remove(module, name)


def unmasked_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` with masks made permanent in it; the original keeps its masks."""
    for module, name in masked_weights(model):
        # A masked weight is a product with a gradient history, which cannot be copied; the next pass renews it.
        setattr(module, name, getattr(module, name).detach())
    duplicate = copy.deepcopy(model)
    make_permanent(duplicate)
    return duplicate


def masked_weights(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return (module, parameter name) of every masked weight."""
    return [
        (module, name.removesuffix("_mask"))
        for module in model.modules()
        for name in dict(module.named_buffers(recurse=False))
        if name.endswith("_mask") and hasattr(module, name.removesuffix("_mask") + "_orig")
    ]


def set_masks(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put the masks of a state dict (``*.weight_mask``) in force on ``model``."""
    modules = dict(model.named_modules())
    for key, mask in state.items():
        owner, _, leaf = key.rpartition(".")
        if leaf.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in state:
            masks.custom_from_mask(modules[owner], leaf.removesuffix("_mask"), mask)


def masks_from_zeros(model: nn.Module) -> None:
    """Put masks in force where weights are zero: how training goes on after a masked run was saved and loaded."""
    for module in prunable_layers(model):
        mask = (module.weight != 0).to(module.weight.dtype)
        if not mask.all():
            masks.custom_from_mask(module, "weight", mask)


def prunable_layers(model: nn.Module) -> list[nn.Module]:
    """Return the convolutions and fully connected layers in order; the last one is the output layer.

    Projections inside nn.MultiheadAttention are left out: it reads their weights without calling them, so a mask
    would not be renewed during training.
    """
    inside_attention = {
        child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.modules()
    }
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module not in inside_attention
    ]


def _targets(model: nn.Module, shares: Shares) -> list[tuple[nn.Module, float]]:
    layers = prunable_layers(model)
    kinds = [shares.convolution if isinstance(layer, nn.Conv2d) else shares.hidden for layer in layers[:-1]]
    return list(zip(layers, [*kinds, shares.output], strict=True))


def _scaled(shares: Shares, amount: float | None) -> Shares:
    if amount is None:
        return shares
    if not 0 < amount < 1:
        raise InputError(f"pruning amount {amount:g} is outside (0, 1); 0.2 prunes 20 %")
    factor = amount / shares.convolution
    return Shares(amount, shares.hidden * factor, shares.output * factor)


def _l1(model: nn.Module, targets: Targets, input_size: int) -> None:
    """Zero the smallest weights of each layer."""
    for layer, share in targets:
        if share:
            masks.l1_unstructured(layer, "weight", share)


def _global(model: nn.Module, targets: Targets, input_size: int) -> None:
    """Zero the smallest weights of all layers together."""
    chosen = [(layer, "weight") for layer, share in targets if share]
    masks.global_unstructured(chosen, masks.L1Unstructured, amount=targets[0][1])


def _layered(model: nn.Module, targets: Targets, input_size: int) -> None:
    """Zero the filters of smallest L2 norm of each layer."""
    for layer, share in targets:
        if share:
            masks.ln_structured(layer, "weight", share, n=2, dim=0)


def _channel(model: nn.Module, targets: Targets, input_size: int) -> None:
    """Remove the channels of smallest L2 norm, dependent layers together (torch-pruning's dependency graph)."""
    name, share = type(model).__name__, targets[0][1]
    output = targets[-1][0]
    classes = output.weight.shape[0]
    model.eval()
    try:
        with _memory_limit(MEMORY_LIMIT), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            _remove_channels(model, share, output, torch.zeros(1, 3, input_size, input_size))
        models.check_forward(model, name, classes, input_size)
    except MemoryError:
        raise InputError(
            f"channel pruning of {name} needs more than {MEMORY_LIMIT >> 30} GB; use {' or '.join(MASKING)}"
        ) from None
    except Exception as error:  # whatever torch-pruning raises on a network that its dependency graph cannot follow
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"channel pruning does not work on {name} ({reason}); use {' or '.join(MASKING)}") from error
    model.train()


def _remove_channels(model: nn.Module, share: float, output: nn.Module, example: Tensor) -> None:
    import torch_pruning

    torch_pruning.pruner.MetaPruner(
        model,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=[output],
        round_to=models.CHANNEL_MULTIPLE,
        num_heads={m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)},
    ).step()


METHODS: dict[str, Callable[[nn.Module, Targets, int], None]] = {
    "l1": _l1,
    "global": _global,
    "layered": _layered,
    "channel": _channel,
}
MASKING = tuple(method for method in METHODS if method != "channel")


@contextlib.contextmanager
def _memory_limit(extra: int) -> Iterator[None]:
    """Let this process grow by at most ``extra`` bytes; past that Python raises MemoryError instead of being killed."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
