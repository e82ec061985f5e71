"""What some torchvision families need beyond torch-pruning: analysis in parts, and widths set right afterwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import maxvit, shufflenetv2, swin_transformer


def _swin(model: nn.Module) -> list[nn.Module]:
    """The hidden layers of the blocks; windows that are cut, rolled and put together again hide the rest."""
    blocks = (swin_transformer.SwinTransformerBlock, swin_transformer.SwinTransformerBlockV2)
    return [module.mlp for module in model.modules() if isinstance(module, blocks)]


def _maxvit(model: nn.Module) -> list[nn.Module]:
    """The hidden layers beside the windowed attention, and the convolutions inside the MBConv blocks."""
    hidden = [module.mlp_layer for module in model.modules() if isinstance(module, maxvit.PartitionAttentionLayer)]
    return hidden + [module.layers for module in model.modules() if isinstance(module, maxvit.MBConv)]


def _shufflenet(model: nn.Module) -> list[nn.Module]:
    """The right-hand branches; shuffling mixes the channels of all blocks of a stage, of which none can go alone."""
    return [module.branch2 for module in model.modules() if isinstance(module, shufflenetv2.InvertedResidual)]


PARTS: dict[type[nn.Module], Callable[[nn.Module], list[nn.Module]]] = {
    torchvision.models.SwinTransformer: _swin,
    torchvision.models.MaxVit: _maxvit,
    torchvision.models.ShuffleNetV2: _shufflenet,
}
"""Networks that torch-pruning cannot follow as a whole -> parts that it can; what goes in and out of them stays."""


def parts(model: nn.Module, input_size: int) -> list[tuple[nn.Module, Tensor]]:
    """Return what of ``model`` is analysed, each with an example of its input: the whole network for most families."""
    images = torch.zeros(1, 3, input_size, input_size)
    if type(model) not in PARTS:
        return [(model, images)]
    chosen = PARTS[type(model)](model)
    inputs: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[module] = given[0].detach()

    hooks = [part.register_forward_pre_hook(remember) for part in chosen]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(part, inputs[part]) for part in chosen]


def _vision_transformer(module: nn.Module) -> None:
    """The width that its forward pass reshapes patches to."""
    module.hidden_dim = module.conv_proj.out_channels


REPAIRS: dict[type[nn.Module], Callable[[nn.Module], None]] = {
    torchvision.models.VisionTransformer: _vision_transformer,
}
"""Networks that keep a channel count of their own, which torch-pruning knows nothing about -> what sets it right."""


def repair(model: nn.Module) -> None:
    """Set right, in place, what the network itself knows of its width."""
    if type(model) in REPAIRS:
        REPAIRS[type(model)](model)
