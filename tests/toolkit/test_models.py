from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from edge_runtime.errors import InputError
from toolkit import models

# One of each family; the input sizes are the smallest round ones that the family takes.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vit_b_16": 32,
}


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", models.ARCHITECTURES)
@pytest.mark.parametrize("width", [1.0, 0.25])
def test_own_architectures_return_logits(name: str, width: float) -> None:
    model = models.build(name, 7, width=width)
    assert model.training
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert all(layer.out_channels % 8 == 0 for layer in convolutions(model))


def test_vgg16_is_the_papers() -> None:
    model = models.build("vgg16", 43)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(512, 512), (512, 512), (512, 43)]
    assert len(convolutions(model)) == 13
    assert all(layer.bias is not None and not layer.bias.any() for layer in convolutions(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(parameter.numel() for parameter in model.parameters()) == 15_262_059
    last = convolutions(model)[-1].weight
    assert last.std().item() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)


def test_width_scales_resnet18_and_one_is_torchvisions() -> None:
    narrow, full = models.build("resnet18", 5, width=0.5), models.build("resnet18", 5)
    assert [layer.out_channels for layer in convolutions(full)] == [2 * c.out_channels for c in convolutions(narrow)]
    assert full.state_dict().keys() == torchvision.models.resnet18(num_classes=5).state_dict().keys()


@pytest.mark.parametrize("size", [16, 48, 64])
def test_input_size_is_a_parameter(size: int) -> None:
    assert models.build("vgg_small", 4, width=0.5, input_size=size)(torch.rand(2, 3, size, size)).shape == (2, 4)


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_torchvision_families_are_built_by_name(name: str, size: int) -> None:
    """The builder itself checks that logits come out, on shapes alone."""
    model = models.build(name, 5, input_size=size)
    assert sum(parameter.numel() for parameter in model.parameters()) > 100_000


def test_the_seed_decides_and_the_global_state_stays() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (models.build("vgg_small", 4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.features[0].weight, again.features[0].weight)
    assert not torch.equal(first.features[0].weight, other.features[0].weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg17", {}, "unknown model 'vgg17'; nearest: .*vgg1"),
        ("vgg16", {"classes": 1}, "at least 2"),
        ("vgg16", {"width": 0.0}, r"width 0 is outside"),
        ("vgg16", {"width": -1.0}, r"width -1 is outside"),
        ("vgg16", {"input_size": 0}, "input size 0 is outside"),
        ("vgg16", {"input_size": 16}, "use at least 32 pixels"),
        ("alexnet", {"input_size": 32}, "alexnet cannot take 32x32 pixels"),
        ("vit_b_16", {"input_size": 40}, "vit_b_16 cannot be built for 40x40 pixels"),
        ("mobilenet_v2", {"width": 0.5}, "only vgg16, .* can be scaled"),
    ],
)
def test_impossible_models_are_one_clear_line(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        models.build(name, **{"classes": 5, **options})
    assert "\n" not in str(caught.value)


def test_names_lists_own_and_torchvision_models() -> None:
    names = models.names()
    assert names[: len(models.ARCHITECTURES)] == list(models.ARCHITECTURES)
    assert {"efficientnet_b0", "swin_t"} < set(names)
    assert len(names) == len(set(names))
