"""Training batches: all images once, the same again for the same seed and epoch, augmented within bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.data import Split
from toolkit.data.loader import DRAWS, Augmentation, augmented, iterate


def numbered(count: int, size: int = 8) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return Split(images, np.arange(count, dtype=np.int64))


def collect(split: Split, batch_size: int, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(iterate(split, batch_size, **{"seed": 0, "epoch": 0, **options}))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_every_image_comes_once_with_its_label() -> None:
    split = numbered(50)
    images, labels = collect(split, 16, augment=None)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert sorted(labels.tolist()) == list(range(50)) != labels.tolist()
    expected = split.images[labels.numpy()].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(images.numpy(), expected)


@pytest.mark.parametrize(("count", "sizes"), [(32, [16, 16]), (33, [16, 17]), (34, [16, 16, 2]), (1, [1]), (5, [5])])
def test_no_batch_holds_a_single_image_unless_it_is_the_only_one(count: int, sizes: list[int]) -> None:
    assert [len(labels) for _, labels in iterate(numbered(count), 16, seed=0, epoch=0)] == sizes


def test_seed_and_epoch_decide_everything() -> None:
    split = numbered(40)
    first = collect(split, 16, seed=3, epoch=7)
    again = collect(split, 16, seed=3, epoch=7)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    orders = {tuple(collect(split, 16, seed=seed, epoch=epoch)[1].tolist()) for seed, epoch in ((3, 7), (3, 8), (7, 3))}
    assert len(orders) == 3


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = collect(numbered(20), 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(collect(numbered(20), 8)[0], first[0])


def test_batch_size_does_not_change_order_or_augmentation() -> None:
    small, large = collect(numbered(40), 4), collect(numbered(40), 32)
    assert torch.equal(small[1], large[1])
    torch.testing.assert_close(small[0], large[0], rtol=0, atol=1e-6)


def test_augmentation_changes_images_and_keeps_their_range() -> None:
    split = numbered(64, size=16)
    plain, labels = collect(split, 32, augment=None)
    changed, same_labels = collect(split, 32)
    assert torch.equal(labels, same_labels)
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert bool(((plain - changed).abs().amax(dim=(1, 2, 3)) > 0.05).all())


def test_no_draw_no_change() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(augmented(images, torch.zeros(4, DRAWS), Augmentation()), images, rtol=0, atol=1e-5)


def test_each_draw_has_its_meaning() -> None:
    """Draws: turn, shift x, shift y, scale, stretch, brightness, contrast; a bright dot shows where pixels go."""
    images = torch.full((1, 3, 32, 32), 0.25)
    images[..., 16, 24] = 1.0

    def dot(position: int, value: float, amount: Augmentation) -> tuple[int, int]:
        draws = torch.zeros(1, DRAWS)
        draws[0, position] = value
        row, column = divmod(int(augmented(images, draws, amount)[0, 0].argmax()), 32)
        return row, column

    assert dot(1, 1.0, Augmentation(shift=0.125)) == (16, 20)
    assert dot(2, -1.0, Augmentation(shift=0.125)) == (20, 24)
    assert dot(3, 1.0, Augmentation(scale=1.0))[1] == 20
    row, column = dot(0, 1.0, Augmentation(turn=90.0))
    assert column in (15, 16) and row in (7, 8, 23, 24)
    level = torch.zeros(1, DRAWS)
    level[0, 5] = -1.0
    darker = augmented(images, level, Augmentation(brightness=0.5))
    torch.testing.assert_close(darker[..., 0, 0], torch.full((1, 3), 0.125))


@pytest.mark.gpu
def test_cuda_sees_the_same_order_and_draws() -> None:
    split = numbered(40)
    on_cpu, on_gpu = collect(split, 16), collect(split, 16, device="cuda")
    assert on_gpu[0].is_cuda and torch.equal(on_cpu[1], on_gpu[1].cpu())
    torch.testing.assert_close(on_cpu[0], on_gpu[0].cpu(), rtol=0, atol=1e-4)
