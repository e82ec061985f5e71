"""Batches for training: seeded shuffling and light augmentation, the same again for the same (seed, epoch).

Augmentation is written on tensors because torchvision's transforms draw one set of parameters per call: on a batch all
images would turn alike, and image by image they cost more than the training step of a small network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
MEMORY_SHARE = 0.5
"""Of a device's free memory: images that take more stay on the host."""


@dataclass(frozen=True)
class Placed:
    """Images uint8 [N, S, S, 3] and labels int64 [N] where the batches of all epochs are taken from.

    ``images`` are on ``device`` if they fit there, otherwise on the host; ``labels`` are on the device.
    """

    images: Tensor
    labels: Tensor
    device: torch.device

    def take(self, chosen: Tensor) -> Tensor:
        """Return the images with the numbers ``chosen`` (on the images' device) on the device."""
        return moved(self.images[chosen], self.device)


def place(split: Split, device: torch.device | str = "cpu") -> Placed:
    """Bring a split to the device, once for all epochs."""
    device = torch.device(device)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    if device.type != "cuda" or images.nbytes <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        images = images.to(device)
    return Placed(images, labels.to(device), device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return ``tensor`` on ``device``; the host goes on while a copy to a GPU is under way.

    A copy from ordinary memory would wait for everything that the GPU has been given before it.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def batch_sizes(count: int, batch_size: int) -> list[int]:
    """Return how many images each batch holds. A single image left over joins the last batch, since batch
    normalisation cannot take one alone."""
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def _all_of(count: int) -> slice:
    return slice(0, count)


def iterate(
    data: Split | Placed,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augment: Augmentation | None = DEFAULT_AUGMENTATION,
    device: torch.device | str = "cpu",
    share: Callable[[int], slice] = _all_of,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, 3, S, S] in [0, 1], labels int64 [B]) once over the data, in random order.

    Order and augmentation depend on ``seed`` and ``epoch`` alone, not on epochs before or on ``batch_size``, so that a
    resumed training sees the same data. They are drawn on the CPU: every device sees the same. Images are not
    normalised. ``device`` is where a Split goes; what is Placed is there already. ``share`` returns which images of a
    batch of so many are wanted here: together, processes that take different ones see the batches of a single process.
    """
    placed = data if isinstance(data, Placed) else place(data, device)
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    order = torch.randperm(len(placed.labels), generator=generator)
    draws = torch.rand(len(placed.labels), DRAWS, generator=generator) * 2 - 1
    # Once an epoch: a copy to a GPU in every step would make the host wait in every step.
    beside_images, beside_labels, draws = (
        order.to(placed.images.device),
        order.to(placed.device),
        draws.to(placed.device),
    )
    start = 0
    for size in batch_sizes(len(order), batch_size):
        wanted = share(size)
        part = slice(start + wanted.start, start + wanted.stop)
        pixels = placed.take(beside_images[part]).permute(0, 3, 1, 2).float() / 255
        if augment is not None and len(pixels):
            pixels = augmented(pixels, draws[part], augment)
        yield pixels, placed.labels[beside_labels[part]]
        start += size


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
    drawn = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mean = drawn.mean(dim=(1, 2, 3), keepdim=True)
    gain, level = (
        1 + factor.view(-1, 1, 1, 1) for factor in (contrast * amount.contrast, brightness * amount.brightness)
    )
    return ((drawn - mean) * gain + mean).mul(level).clamp(0, 1)
