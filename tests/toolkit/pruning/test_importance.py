"""Each importance against its definition, written down again for one convolution of a plain network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_runtime.errors import InputError
from toolkit import models, pruning
from toolkit.pruning import Examples, Pruning

SIZE = 16


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A small VGG whose batch norms are no longer all alike."""
    model = models.build("vgg_small", 4, input_size=SIZE).eval()
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
    return model


@pytest.fixture(scope="module")
def examples() -> Examples:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(20, 3, SIZE, SIZE, generator=generator)
    return Examples(images, torch.randint(0, 4, (20,), generator=generator))


def kept_filters(model: nn.Module, importance: str, examples: Examples | None = None, seed: int = 0) -> Tensor:
    """Return which filters of the first convolution of ``model`` are left after half of them went."""
    how = Pruning("channel", importance=importance)
    pruned = pruning.apply(model, how, input_size=SIZE, examples=examples, seed=seed).model
    before, after = model.features[0].weight, pruned.features[0].weight
    return torch.tensor([index for index, filter in enumerate(before) if (filter == after).flatten(1).all(1).any()])


def largest(importance: Tensor) -> Tensor:
    return importance.argsort(descending=True)[: len(importance) // 2].sort().values


def channel_sum(first: Tensor, norm: Tensor | None, second: Tensor) -> Tensor:
    """Add up what is said of a channel: by its filter [K, ...], its batch norm [K], its columns of the next layer."""
    return first.sum((1, 2, 3)) + (0 if norm is None else norm) + second.sum((0, 2, 3))


@pytest.mark.parametrize(("importance", "norm"), [("l1", 1), ("l2", 2), ("lamp", 2)])
def test_magnitudes(model: nn.Module, importance: str, norm: int) -> None:
    """In one layer LAMP ranks as its squares do; it differs between layers."""
    first, batch_norm, _, second = model.features[:4]
    expected = channel_sum(*(each.weight.abs() ** norm for each in (first, batch_norm, second)))
    assert torch.equal(kept_filters(model, importance), largest(expected))


def test_batch_norm_scale(model: nn.Module) -> None:
    assert torch.equal(kept_filters(model, "batch-norm"), largest(model.features[1].weight.abs()))


def test_taylor_is_weight_times_gradient_of_the_mean_loss(model: nn.Module, examples: Examples) -> None:
    first, second = model.features[0], model.features[3]
    loss = F.cross_entropy(model(examples.images), examples.labels)
    gradients = torch.autograd.grad(loss, [first.weight, second.weight])
    parts = [(layer.weight * gradient).abs() for layer, gradient in zip((first, second), gradients, strict=True)]
    assert torch.equal(kept_filters(model, "taylor", examples), largest(channel_sum(parts[0], None, parts[1])))


def test_hessian_is_squared_weight_times_mean_squared_gradient(model: nn.Module, examples: Examples) -> None:
    """Over all images, not the last one only."""
    layers = model.features[0], model.features[1], model.features[3]
    fisher = [torch.zeros_like(layer.weight) for layer in layers]
    for image, label in zip(examples.images, examples.labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        for total, gradient in zip(fisher, torch.autograd.grad(loss, [each.weight for each in layers]), strict=True):
            total += gradient**2 / len(examples.labels)
    parts = [layer.weight**2 * total for layer, total in zip(layers, fisher, strict=True)]
    assert torch.equal(kept_filters(model, "hessian", examples), largest(channel_sum(*parts)))


def test_chance_follows_its_seed_and_leaves_the_global_one_alone(model: nn.Module) -> None:
    state = torch.random.get_rng_state()
    one, again, other = (kept_filters(model, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("importance", pruning.GRADIENTS)
def test_gradients_do_not_stay(model: nn.Module, examples: Examples, importance: str) -> None:
    pruned = pruning.apply(model, Pruning("channel", importance=importance), input_size=SIZE, examples=examples).model
    assert all(parameter.grad is None for parameter in (*model.parameters(), *pruned.parameters()))


@pytest.mark.parametrize("importance", pruning.GRADIENTS)
def test_gradients_need_images(model: nn.Module, importance: str) -> None:
    with pytest.raises(InputError, match=f"importance '{importance}' needs training images; pass --data, or use l2"):
        pruning.apply(model, Pruning("channel", importance=importance), input_size=SIZE)


def test_batch_norm_needs_batch_norm() -> None:
    with pytest.raises(InputError, match=r"reads batch normalisation, of which VGG has none; use another .* l2"):
        pruning.apply(models.build("vgg16", 4, width=0.25), Pruning("channel", importance="batch-norm"))
