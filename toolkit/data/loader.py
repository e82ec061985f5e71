"""Batches for training: seeded shuffling and light augmentation, the same again for the same (seed, epoch).

Augmentation is written on tensors because torchvision's transforms draw one set of parameters per call: on a batch all
images would turn alike, and image by image they cost more than the training step of a small network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.data.dataset import Split


@dataclass(frozen=True)
class Augmentation:
    """Largest changes, each drawn uniformly per image. Signs are never mirrored: that would change their meaning.

    ``turn`` in degrees; ``shift`` as a share of the side; ``scale`` and ``stretch`` as a share of the size;
    ``brightness`` and ``contrast`` as a share of the value.
    """

    turn: float = 10.0
    shift: float = 0.08
    scale: float = 0.12
    stretch: float = 0.08
    brightness: float = 0.3
    contrast: float = 0.3


DEFAULT_AUGMENTATION = Augmentation()
DRAWS = 7  # random numbers per image: turn, two shifts, scale, stretch, brightness, contrast


def iterate(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augment: Augmentation | None = DEFAULT_AUGMENTATION,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, 3, S, S] in [0, 1], labels int64 [B]) once over the split, in random order.

    Order and augmentation depend on ``seed`` and ``epoch`` alone, not on epochs before or on ``batch_size``, so that a
    resumed training sees the same data. They are drawn on the CPU: every device sees the same. Images are not
    normalised. A single image left over joins the last batch, since batch normalisation cannot take one alone.
    """
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    order = torch.randperm(len(split), generator=generator)
    draws = torch.rand(len(split), DRAWS, generator=generator) * 2 - 1
    images, labels = (torch.from_numpy(array).to(device) for array in (split.images, split.labels))
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    for batch in batches:
        chosen = batch.to(device)
        pixels = images[chosen].permute(0, 3, 1, 2).float() / 255
        if augment is not None:
            pixels = augmented(pixels, draws[batch].to(device), augment)
        yield pixels, labels[chosen]


def augmented(images: Tensor, draws: Tensor, amount: Augmentation) -> Tensor:
    """Turn, shift, scale and stretch, then change brightness and contrast; ``draws`` [B, DRAWS] is uniform in -1 .. 1.

    Images and result are [B, 3, S, S] in [0, 1]; what comes in from outside repeats the edge.
    """
    turn, x, y, scale, stretch, brightness, contrast = draws.unbind(1)
    radians = torch.deg2rad(turn * amount.turn)
    zoom = 1 + scale * amount.scale
    wide, high = zoom * (1 + stretch * amount.stretch), zoom * (1 - stretch * amount.stretch)
    sine, cosine = radians.sin(), radians.cos()
    # One unit of affine_grid's coordinates is half a side.
    first_row = torch.stack((cosine * wide, -sine * high, 2 * amount.shift * x), dim=1)
    second_row = torch.stack((sine * wide, cosine * high, 2 * amount.shift * y), dim=1)
    grid = F.affine_grid(torch.stack((first_row, second_row), dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    gain, level = (
        1 + factor.view(-1, 1, 1, 1) for factor in (contrast * amount.contrast, brightness * amount.brightness)
    )
    return ((moved - mean) * gain + mean).mul(level).clamp(0, 1)
