"""Size of a network: parameters and multiply-accumulates."""

from __future__ import annotations

import warnings

import torch
from torch import nn


def parameters(model: nn.Module, input_size: int = 32) -> int:
    """Return the number of stored parameters."""
    return sum(weight.numel() for weight in model.parameters())


def macs(model: nn.Module, input_size: int = 32) -> int:
    """Return the multiply-accumulates of one image of ``input_size`` pixels square, by torch-pruning's counter."""
    import torch_pruning

    device = next(model.parameters()).device
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        counted, _ = torch_pruning.utils.count_ops_and_params(
            model, torch.zeros(1, 3, input_size, input_size).to(device)
        )
    return int(counted)
