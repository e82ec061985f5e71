from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edge_runtime.errors import InputError
from toolkit import evaluation, models, pruning, structure

# PROTOCOL, pruning table: share of all weights of convolutions and fully connected layers of VGG-16 on GTSRB.
PROTOCOL_SPARSITY = {
    ("l1", "paper"): 0.193,
    ("l1", "authors-code"): 0.1964,
    ("global", "paper"): 0.2,
    ("layered", "authors-code"): 0.0998,
}


def layer_sparsity(model: nn.Module) -> list[float]:
    return [(layer.weight == 0).float().mean().item() for layer in pruning.prunable_layers(model)]


@pytest.fixture(scope="module")
def vgg16() -> nn.Module:
    return models.build("vgg16", 43)


@pytest.mark.parametrize(("method", "preset"), PROTOCOL_SPARSITY)
def test_presets_reach_the_protocols_sparsity(vgg16: nn.Module, method: str, preset: str) -> None:
    pruned = pruning.prune(vgg16, method, preset=preset)
    counts = evaluation.count(pruned)
    assert counts.sparsity == pytest.approx(PROTOCOL_SPARSITY[method, preset], abs=5e-4)
    assert counts.parameters == 15_262_059
    assert counts.parameters - counts.nonzero_parameters >= counts.sparsity * 15e6


def test_l1_of_the_paper_prunes_convolutions_and_the_output_layer() -> None:
    shares = layer_sparsity(pruning.prune(models.build("vgg16", 43, width=0.25), "l1"))
    assert shares[:13] == pytest.approx([0.2] * 13, abs=0.005)
    assert shares[13:] == pytest.approx([0, 0, 0.1], abs=0.005)


def test_l1_takes_the_smallest_weights_of_each_layer() -> None:
    model = models.build("vgg_small", 4, width=0.5)
    pruned = pruning.prune(model, "l1", 0.5)
    for before, after in zip(pruning.prunable_layers(model), pruning.prunable_layers(pruned), strict=True):
        gone = after.weight == 0
        assert before.weight[gone].abs().max() <= before.weight[~gone].abs().min()


def test_layered_zeroes_whole_filters_but_not_the_last_layer() -> None:
    layers = pruning.prunable_layers(pruning.prune(models.build("vgg16", 43, width=0.25), "layered"))
    for layer in layers[:-1]:
        filters = (layer.weight == 0).flatten(1)
        assert filters.all(1).float().mean() == pytest.approx(0.1, abs=0.04)
        assert torch.equal(filters.any(1), filters.all(1))
    assert layers[-1].weight.all()


def test_amount_keeps_the_presets_ratio_between_layers() -> None:
    shares = layer_sparsity(pruning.prune(models.build("vgg16", 43, width=0.25), "l1", 0.4, preset="authors-code"))
    assert shares == pytest.approx([0.4] * 13 + [0.2] * 3, abs=0.005)


def test_the_original_stays_as_it_is_and_masks_become_zeros() -> None:
    model = models.build("vgg_small", 4, width=0.5)
    pruned = pruning.prune(model, "global")
    assert not pruning.masked_weights(model)
    assert len(pruning.masked_weights(pruned)) == 9
    expected = pruned.eval()(torch.ones(1, 3, 32, 32))
    pruning.make_permanent(pruned)
    assert not pruning.masked_weights(pruned)
    assert pruned.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(pruned(torch.ones(1, 3, 32, 32)), expected)
    assert evaluation.count(pruned).sparsity == pytest.approx(0.2, abs=1e-3)


def test_masks_are_derived_again_from_stored_zeros() -> None:
    pruned = pruning.prune(models.build("vgg_small", 4, width=0.5), "l1")
    expected = {name: mask.clone() for name, mask in pruned.named_buffers() if name.endswith("_mask")}
    pruning.make_permanent(pruned)
    pruning.masks_from_zeros(pruned)
    assert expected.keys() == {name for name, _ in pruned.named_buffers() if name.endswith("_mask")}
    assert all(torch.equal(pruned.get_buffer(name), mask) for name, mask in expected.items())


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ("vgg16", 0.5),
        ("vgg16_bn", 0.5),
        ("vgg_small", 1.0),
        ("resnet18", 0.5),
        ("mobilenet_v3_small", 1.0),
        ("efficientnet_b0", 1.0),
    ],
)
def test_channels_are_really_removed_in_multiples_of_8(architecture: str, width: float) -> None:
    model = models.build(architecture, 10, width=width)
    pruned = pruning.prune(model, "channel")
    before, after = evaluation.count(model), evaluation.count(pruned)
    assert before.macs > 3 * after.macs
    assert before.parameters > 3 * after.parameters
    assert pruned.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    for original, layer in zip(pruning.prunable_layers(model)[:-1], pruning.prunable_layers(pruned), strict=False):
        assert layer.weight.shape[0] % 8 == 0 or original.weight.shape[0] % 8
    assert rebuilt_equals(models.build(architecture, 10, width=width), pruned)


def rebuilt_equals(fresh: nn.Module, pruned: nn.Module) -> bool:
    """Apply the recorded structure and the weights to a ``fresh`` network, and compare the logits."""
    state = pruned.state_dict()
    structure.apply(fresh, structure.difference(fresh, pruned), {name: tensor.shape for name, tensor in state.items()})
    fresh.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 32, 32)
    return torch.equal(fresh.eval()(images), pruned.eval()(images))


def test_channel_pruning_keeps_the_channels_of_largest_norm() -> None:
    """A channel is what makes it and what reads it: filter, batch norm weight and the next layer's columns."""
    model = models.build("vgg_small", 4)
    first, norm, _, second = model.features[:4]
    importance = first.weight.square().sum((1, 2, 3)) + norm.weight.square() + second.weight.square().sum((0, 2, 3))
    kept = importance.argsort(descending=True)[: first.out_channels // 2].sort().values
    assert torch.equal(pruning.prune(model, "channel").features[0].weight, first.weight[kept])


def test_a_masked_network_can_be_pruned_again() -> None:
    once = pruning.prune(models.build("vgg_small", 4), "l1")
    twice = pruning.prune(once, "channel")
    assert pruning.masked_weights(once)
    assert not pruning.masked_weights(twice)
    assert evaluation.count(twice).macs <= evaluation.count(once).macs / 3


def test_attention_projections_are_left_alone() -> None:
    """Masks on them would be stale after the first step, because attention reads the weights without calling them."""
    output = nn.Linear(16, 4)
    assert pruning.prunable_layers(nn.Sequential(nn.MultiheadAttention(16, 2), output)) == [output]


@pytest.mark.parametrize("name", models.names())
@pytest.mark.slow
def test_the_last_prunable_layer_is_the_output_layer(name: str) -> None:
    model = models.build(name, 11, input_size=224)
    assert pruning.prunable_layers(model)[-1].weight.shape[0] == 11


@pytest.mark.parametrize(
    ("method", "amount", "preset", "message"),
    [
        ("l2", None, "paper", "unknown pruning method 'l2'; nearest: l1"),
        ("l1", None, "papers", "unknown pruning preset 'papers'; nearest: paper"),
        ("l1", 0.0, "paper", r"pruning amount 0 is outside \(0, 1\)"),
        ("channel", 1.0, "paper", r"pruning amount 1 is outside \(0, 1\)"),
        ("global", -0.2, "paper", r"pruning amount -0.2 is outside \(0, 1\)"),
    ],
)
def test_bad_arguments(method: str, amount: float | None, preset: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pruning.prune(models.build("vgg_small", 4, width=0.5), method, amount, preset=preset)


def test_pruning_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pruning.prune(models.build("vgg_small", 4, width=0.5), "channel")
    assert list(tmp_path.iterdir()) == []
