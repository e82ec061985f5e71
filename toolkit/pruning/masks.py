"""Masks on weights: the paper's three prunings, and N of 4 weights as sparse tensor cores want them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from edge_runtime.errors import InputError
from toolkit.pruning.settings import GROUP, SEMI_STRUCTURED, Shares, zeros_of_group

Targets = Sequence[tuple[nn.Module, float]]


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


def layer_shares(model: nn.Module, shares: Shares) -> list[tuple[nn.Module, float]]:
    """Return every prunable layer of ``model`` with its share."""
    layers = prunable_layers(model)
    kinds = [shares.convolution if isinstance(layer, nn.Conv2d) else shares.hidden for layer in layers[:-1]]
    return list(zip(layers, [*kinds, shares.output], strict=True))


def _l1(model: nn.Module, targets: Targets) -> None:
    """Zero the smallest weights of each layer."""
    for layer, share in targets:
        if share:
            masks.l1_unstructured(layer, "weight", share)


def _global(model: nn.Module, targets: Targets) -> None:
    """Zero the smallest weights of all layers together."""
    chosen = [(layer, "weight") for layer, share in targets if share]
    masks.global_unstructured(chosen, masks.L1Unstructured, amount=targets[0][1])


def _layered(model: nn.Module, targets: Targets) -> None:
    """Zero the filters of smallest L2 norm of each layer."""
    for layer, share in targets:
        if share:
            masks.ln_structured(layer, "weight", share, n=2, dim=0)


def _semi_structured(model: nn.Module, targets: Targets) -> None:
    """Zero the smallest of every 4 weights along the input channels, where a layer has them in fours.

    TensorRT's condition on weights [K, C, R, S] (developer guide, Structured Sparsity): two zeros or more among four
    neighbours along C, for every k, r and s. NVIDIA's ASP (apex/contrib/sparsity) masks the same fours.
    """
    eligible = [(layer, share) for layer, share in targets if share and layer.weight.shape[1] % GROUP == 0]
    if not eligible:
        raise InputError(
            f"{type(model).__name__} has no layer whose input channels come in fours, which {SEMI_STRUCTURED} pruning "
            "needs; use l1 or global"
        )
    for layer, share in eligible:
        masks.custom_from_mask(layer, "weight", group_mask(layer.weight.detach(), zeros_of_group(share)))


def group_mask(weight: Tensor, zeros: int) -> Tensor:
    """Return the mask of ``weight`` [K, C, ...], alike in shape, that drops the ``zeros`` smallest of every 4 along C.

    Of equal weights those of the lower channels go first.
    """
    fours = weight.abs().movedim(1, -1).unflatten(-1, (-1, GROUP))
    smallest = fours.argsort(dim=-1, stable=True)[..., :zeros]
    kept = torch.ones_like(fours).scatter_(-1, smallest, 0.0)
    return kept.flatten(-2).movedim(-1, 1).contiguous()


MASKS: dict[str, Callable[[nn.Module, Targets], None]] = {
    "l1": _l1,
    "global": _global,
    "layered": _layered,
    SEMI_STRUCTURED: _semi_structured,
}
"""Masking method -> function that sets the masks of its share on each layer, in place."""
