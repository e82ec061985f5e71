"""Parameter randomisation (Adebayo et al. 2018): an explanation that outlives the weights does not explain them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_runtime.manifest import ExplainerPreset, InputSpec
from edge_runtime.metrics import rank_correlation, reduce_channels
from toolkit.evaluation import captum_explain, classify
from toolkit.pruning import prunable_layers, unmasked_copy


@dataclass(frozen=True)
class Randomised:
    """One stage: ``layer`` was the last one randomised; ``correlation`` [N] is Spearman's, per image, between the
    saliency of the trained network and of this one (NaN where either is constant)."""

    layer: str
    correlation: NDArray[np.float64]


def cascading_randomisation(
    model: nn.Module, images: NDArray[np.float32], preset: ExplainerPreset, spec: InputSpec, seed: int = 0
) -> list[Randomised]:
    """Randomise convolutions and fully connected layers one after the other, from the output to the input.

    A layer's weights become normal numbers of the same standard deviation, so that activations keep their scale.
    Explains the class that the trained network predicts for the normalised ``images`` [N, 3, H, W]; ``model`` stays as
    it is. Correlations near 0 are good, values that stay near 1 mean that the explainer looks at the image alone.
    """
    target = classify(model)(images).argmax(1)
    damaged = unmasked_copy(model)
    layers = prunable_layers(damaged)
    names = {id(module): name for name, module in damaged.named_modules()}

    def saliency() -> NDArray[np.float32]:
        return reduce_channels(captum_explain(damaged, images, preset, target, spec, seed), preset.reduction)

    intact = saliency()
    generator = torch.Generator().manual_seed(seed)
    stages = []
    for layer in reversed(layers):
        with torch.no_grad():
            noise = torch.randn(layer.weight.shape, generator=generator).to(layer.weight.device)
            layer.weight.copy_(noise * layer.weight.std())
        stages.append(Randomised(names[id(layer)], rank_correlation(intact, saliency())))
    return stages
