"""Two of four: where sparse tensor cores want their zeros. The paper's masks are tested in test_pruning.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_runtime.errors import InputError
from toolkit import evaluation, models, pruning
from toolkit.pruning.masks import group_mask


def zeros_along_channels(weight: torch.Tensor) -> torch.Tensor:
    """Count the zeros of each four input channels, for each filter and position: [K, C / 4, ...]."""
    return (weight == 0).unflatten(1, (-1, 4)).sum(2)


@pytest.mark.parametrize(("amount", "zeros"), [(None, 2), (0.25, 1), (0.75, 3)])
def test_every_four_input_channels_lose_as_many(amount: float | None, zeros: int) -> None:
    pruned = pruning.prune(models.build("vgg_small", 4), "semi-structured", amount)
    first, *middle, output = pruning.prunable_layers(pruned)
    assert bool(first.weight.all()) and bool(output.weight.all())  # 3 channels; the output layer
    for layer in middle:
        assert bool((zeros_along_channels(layer.weight) == zeros).all())


def test_the_smallest_of_four_go() -> None:
    weight = torch.tensor([[4.0, -1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    assert group_mask(weight, 2).tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


def test_fully_connected_layers_and_grouped_convolutions_take_part() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, groups=2), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2)
    )
    grouped, depthwise, hidden, output = pruning.prunable_layers(pruning.prune(model, "semi-structured"))
    assert bool((zeros_along_channels(grouped.weight) == 2).all())
    assert bool((zeros_along_channels(hidden.weight) == 2).all())
    assert bool(depthwise.weight.all()) and bool(output.weight.all())


def test_the_pattern_outlives_training() -> None:
    model = pruning.prune(models.build("vgg_small", 4, width=0.5), "semi-structured")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    before = evaluation.count(model).sparsity
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    pruning.make_permanent(model)
    for layer in pruning.prunable_layers(model)[1:-1]:
        assert bool((zeros_along_channels(layer.weight) == 2).all())
    assert evaluation.count(model).sparsity == pytest.approx(before)
    assert before > 0.45


def test_a_network_without_fours_is_refused() -> None:
    with pytest.raises(InputError, match="has no layer whose input channels come in fours"):
        pruning.prune(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 2)), "semi-structured")
