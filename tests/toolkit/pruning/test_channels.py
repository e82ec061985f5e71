"""Which channels go: rounding, scopes, grouped convolutions; and agreement with torch-pruning's own pruner."""

from __future__ import annotations

import resource

import pytest
import torch
from torch import nn

from edge_runtime.errors import InputError
from toolkit import evaluation, models, pruning
from toolkit.pruning import Pruning, channels
from toolkit.pruning.channels import Unit, kept
from toolkit.pruning.masks import prunable_layers

NOTHING = (None, nn.Identity(), lambda *_: None)


def unit(size: int, repeats: int = 1, *, name: str = "a", scores: list[float] | None = None) -> Unit:
    return Unit(name, size, repeats, NOTHING, torch.tensor(scores) if scores else None)


@pytest.mark.parametrize(
    ("size", "repeats", "share", "round_to", "left"),
    [
        (64, 1, 0.5, 8, 32),
        (64, 1, 0.3, 8, 40),  # 44.8, downwards
        (64, 1, 0.3, 16, 32),
        (64, 1, 0.3, 1, 44),
        (16, 1, 0.9, 8, 8),  # never to nothing
        (8, 1, 0.5, 16, 8),  # nor below one multiple, which here is all there is
        (24, 1, 0.01, 8, 16),
        (20, 1, 0.0, 8, 20),  # what loses nothing is not rounded
        (4, 32, 0.5, 8, 2),  # 32 groups of 2 are a multiple of 8
        (6, 4, 0.3, 8, 4),  # 4 groups of 4, not of 3
    ],
)
def test_what_a_layer_keeps(size: int, repeats: int, share: float, round_to: int, left: int) -> None:
    assert kept([unit(size, repeats)], Pruning("channel", round_to=round_to), share) == {"a": left}


def test_later_steps_count_from_the_original() -> None:
    how = Pruning("channel")
    assert kept([unit(48)], how, 0.5, {"a": 64}) == {"a": 32}
    assert kept([unit(24)], how, 0.5, {"a": 64}) == {"a": 24}


def test_globally_all_channels_compete() -> None:
    how = Pruning("channel", scope="global", round_to=1)
    units = [unit(4, name="weak", scores=[1, 2, 3, 9]), unit(4, name="strong", scores=[4, 5, 6, 7])]
    assert kept(units, how, 0.375) == {"weak": 1, "strong": 4}
    assert kept(units, how, 0.5) == {"weak": 1, "strong": 3}
    assert kept(units[:1], how, 0.99) == {"weak": 1}
    already = [unit(2, name="weak", scores=[3, 9]), units[1]]
    assert kept(already, how, 0.375, {"weak": 4, "strong": 4}) == {"weak": 1, "strong": 4}


def by_torch_pruning(model: nn.Module, share: float, scope: str) -> nn.Module:
    """Prune by torch-pruning's own pruner, as this package did before it chose the channels itself."""
    import torch_pruning

    copied = pruning.unmasked_copy(model).eval()
    torch_pruning.pruner.MetaPruner(
        copied,
        torch.zeros(1, 3, 32, 32),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=scope == "global",
        pruning_ratio=share,
        ignored_layers=[prunable_layers(copied)[-1]],
        round_to=models.CHANNEL_MULTIPLE,
        num_heads={m: m.num_heads for m in copied.modules() if isinstance(m, nn.MultiheadAttention)},
    ).step()
    return copied


@pytest.mark.parametrize(
    ("architecture", "share", "scope"),
    [
        ("vgg16", 0.5, "uniform"),
        ("vgg_small", 0.5, "uniform"),
        ("resnet18", 0.3, "uniform"),
        ("resnet18", 0.2, "global"),
        ("mobilenet_v3_small", 0.5, "uniform"),
    ],
)
def test_the_same_channels_go_as_by_torch_prunings_own_pruner(architecture: str, share: float, scope: str) -> None:
    model = models.build(architecture, 10, width=0.5 if architecture in models.ARCHITECTURES else 1.0)
    ours = pruning.apply(model, Pruning("channel", share, scope=scope)).model.state_dict()
    theirs = by_torch_pruning(model, share, scope).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_global_scope_takes_more_from_layers_that_matter_less() -> None:
    model = models.build("vgg_small", 4)
    model.features[3].weight.data *= 1e-3
    uniform, competing = (
        pruning.apply(model, Pruning("channel", 0.3, importance="l1", scope=scope)).model for scope in pruning.SCOPES
    )
    widths = [[layer.weight.shape[0] for layer in prunable_layers(each)] for each in (uniform, competing)]
    assert len(set(widths[0][:2])) == 1
    assert widths[0] != widths[1]
    assert all(width % 8 == 0 for width in widths[1][:-1])


@pytest.mark.parametrize("round_to", [16, 32])
def test_channel_counts_stay_multiples(round_to: int) -> None:
    model = models.build("vgg16", 10, width=0.5)
    pruned = pruning.apply(model, Pruning("channel", 0.3, round_to=round_to)).model
    assert all(layer.weight.shape[0] % round_to == 0 for layer in prunable_layers(pruned)[:-1])
    assert prunable_layers(pruned)[-1].weight.shape[0] == 10


def test_grouped_convolutions_lose_the_same_channels_in_every_group() -> None:
    model = models.build("resnext50_32x4d", 4)
    pruned = pruning.prune(model, "channel")
    grouped = [layer for layer in prunable_layers(pruned) if getattr(layer, "groups", 1) > 1]
    assert grouped
    assert all(layer.groups == 32 and layer.out_channels % 32 == 0 for layer in grouped)
    assert evaluation.count(pruned).macs < 0.4 * evaluation.count(model).macs


def test_a_network_that_cannot_be_followed_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"does not work on Twisted \(.*; use l1 or global or layered") as refused:
        pruning.prune(Twisted(), "channel")
    assert "\n" not in str(refused.value)


class Twisted(nn.Module):
    """Reads the channels of its convolution in an order that no dependency graph sees."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 3)
        self.output = nn.Linear(16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.convolution(images).mean((2, 3))
        return self.output(features.view(-1, 4, 4).transpose(1, 2).reshape(-1, 16))


def test_running_out_of_memory_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a network whose dependency analysis takes minutes to fill the memory."""
    monkeypatch.setattr(channels, "analyse", lambda *_: bytearray(channels.MEMORY_LIMIT + (1 << 30)))
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InputError, match="channel pruning of VGG needs more than 4 GB; use l1"):
        pruning.prune(models.build("vgg_small", 4, width=0.5), "channel")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(
    "architecture",
    [
        "vgg_small",
        "shufflenet_v2_x0_5",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet18", "resnext50_32x4d", "regnet_y_400mf", "densenet121", "efficientnet_b0", "swin_t")
        ),
    ],
)
def test_channels_that_are_silent_go_without_changing_an_answer(architecture: str) -> None:
    """Silence what is to go, everywhere it is made; the smaller network must then say what the large one says."""
    model = models.build(architecture, 4, input_size=64)
    how = Pruning("channel")
    network = channels.analyse(model, 64, how)
    counts = kept(network.units, how, 0.5)
    scores = {each.name: each.scores for each in network.units if each.scores is not None}
    for each in network.units:
        graph, *root = each.root
        going = scores[each.name].argsort()[: each.size - counts[each.name]]
        indices = torch.cat([going + repeat * each.size for repeat in range(each.repeats)])
        for dep, chosen in graph.get_pruning_group(*root, indices.tolist()) if len(indices) else ():
            module = dep.target.module
            if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(
                module, nn.Conv2d | nn.Linear | nn.BatchNorm2d
            ):
                for parameter in module.parameters():
                    parameter.data[chosen] = 0
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
        channels.remove(network, counts, scores)
        between_images = float((expected[0] - expected[1]).abs().max())
        assert torch.allclose(model(images), expected, rtol=0, atol=1e-2 * between_images)
    assert any(counts[each.name] < each.size for each in network.units)
