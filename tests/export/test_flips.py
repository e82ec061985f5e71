"""The parity check of gradients: flipped units explain a difference, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.errors import ExportError
from edge_runtime.manifest import GradientParity
from export.flips import TOLERANCE, check_gradient_parity, explain_difference, explained, vanilla_gradient
from export.gradients import RULES, build_explainer
from export.gradients.builder import Op
from export.gradients.registry import Rule
from export.to_onnx import to_onnx, torch_gradient
from tests.export.gradients.classifiers import CLASSES, classifier, images
from toolkit import models


@pytest.mark.parametrize("architecture", ["vgg16", "resnet18"])
def test_without_flips_nothing_is_to_explain(architecture: str) -> None:
    module, model = classifier(architecture)
    parity = check_gradient_parity(torch_gradient(module), model, images(architecture, 3))
    assert parity.images == 3
    assert parity.relative_l2 == parity.residual < 1e-5
    assert 0 < parity.max_error < 1e-4
    assert (parity.flipped_units, parity.share_flipped) == (0, 0.0)


def test_the_reference_leaves_the_model_as_it_was() -> None:
    module, _ = classifier("vgg16")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradient = torch_gradient(module.train())
    result = gradient(images("vgg16", 2), np.array([1, 2]))
    assert (result.shape, result.dtype) == ((2, 3, 32, 32), np.float64)
    assert module.training
    module.eval()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_every_class_is_a_target() -> None:
    module, model = classifier("vgg16")
    batch = images("vgg16", CLASSES)
    target = np.arange(CLASSES)
    found = vanilla_gradient(build_explainer(model), batch, target)
    assert explain_difference(model, batch, target, found, torch_gradient(module)(batch, target)).relative_l2 < 1e-5
    swapped = explain_difference(model, batch, target, found, torch_gradient(module)(batch, target[::-1].copy()))
    assert not explained(swapped)


def to_zero(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each image, the element closest to 0 and the change that takes it to the other side."""
    flat = values.flatten(1)
    index = torch.where(flat == 0, torch.inf, flat.abs()).argmin(1)
    return index, -2 * flat.gather(1, index[:, None])[:, 0]


def to_first(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each image, the second of the 2x2 window whose largest values are closest, and what lifts it."""

    def windows(array: torch.Tensor) -> torch.Tensor:
        n, c, h, w = array.shape
        return array.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(n, -1, 4)

    position = torch.arange(values[0].numel()).reshape(1, *values.shape[1:]).expand(values.shape)
    largest = windows(values).topk(2)
    gap = largest.values[..., 0] - largest.values[..., 1]
    closest = torch.where((gap == 0) | (largest.values[..., 1] <= 0), torch.inf, gap).argmin(1)
    each = torch.arange(len(values))
    return windows(position)[each, closest, largest.indices[each, closest, 1]], 2 * gap[each, closest]


@pytest.mark.parametrize(("layer", "across"), [(1, to_zero), (4, to_first)], ids=["relu", "max-pool"])
def test_one_flipped_unit_is_found(layer: int, across: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    module, model = classifier("vgg16")
    double = copy.deepcopy(module).double()
    many = images("vgg16", 128)
    with torch.no_grad():
        index, change = across(double.features[:layer](torch.from_numpy(many).double()))
    chosen = int(change.abs().argmin())  # of all images the one with the closest decision

    def decide_otherwise(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        shift = torch.zeros_like(inputs[0]).flatten()
        shift[index[chosen]] = change[chosen]
        return (inputs[0] + shift.reshape(inputs[0].shape),)

    double.features[layer].register_forward_pre_hook(decide_otherwise)
    batch, target = many[chosen : chosen + 1], np.array([3])
    found = vanilla_gradient(build_explainer(model), batch, target)
    parity = explain_difference(model, batch, target, found, torch_gradient(double)(batch, target))
    assert parity.relative_l2 > TOLERANCE
    assert parity.flipped_units == 1
    assert parity.residual < 1e-5
    assert parity.share_flipped == 1 / parity.units


class Flat(nn.Module):
    """A map so flat that float32 makes different units equal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(1e-5))
        self.shift = nn.Parameter(torch.tensor(1.0))
        self.layers = nn.Sequential(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(675, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(self.scale * images + self.shift)
        return result


def test_units_that_float32_made_equal_are_found() -> None:
    module = Flat().eval()
    model = to_onnx(module, input_size=(32, 32))
    batch, target = np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32), np.arange(8) % 5
    found = vanilla_gradient(build_explainer(model), batch, target)
    parity = explain_difference(model, batch, target, found, torch_gradient(module)(batch, target))
    assert parity.relative_l2 > 100 * TOLERANCE
    assert parity.flipped_units > 1
    assert parity.residual < 1e-5


def leaky(op: Op, g: str) -> str:
    """A wrong rule of ReLU: it lets one in a thousand through."""
    return op.add(op.masked(g, op.output), op.mul(g, 1e-3))


def spread(op: Op, g: str) -> list[str]:
    """A wrong rule of Add: one branch gets a little too much."""
    return [op.mul(g, 1.001), g]


@pytest.mark.parametrize(("operator", "wrong"), [("Relu", leaky), ("Add", spread)])
def test_a_wrong_rule_is_not_explained(monkeypatch: pytest.MonkeyPatch, operator: str, wrong: Any) -> None:
    module, model = classifier("resnet18")
    batch, target = images("resnet18", 1), np.array([2])
    right = vanilla_gradient(build_explainer(model), batch, target)
    with monkeypatch.context() as patch:
        patch.setitem(RULES, operator, Rule(operator, wrong, broadcast=operator == "Add"))
        found = vanilla_gradient(build_explainer(model), batch, target)
        with pytest.raises(
            ExportError, match=r"gradient differs from the original by a relative .* nothing was written"
        ):
            check_gradient_parity(torch_gradient(module), model, batch, target)
    parity = explain_difference(model, batch, target, found, torch_gradient(module)(batch, target))
    assert TOLERANCE < parity.residual <= parity.relative_l2 < 0.05
    assert not explained(parity)
    assert explained(explain_difference(model, batch, target, right, torch_gradient(module)(batch, target)))


def test_noise_on_the_gradient_is_not_explained() -> None:
    module, model = classifier("vgg16")
    batch, target = images("vgg16", 1), np.array([3])
    reference = torch_gradient(module)(batch, target)
    noise = np.random.default_rng(0).standard_normal(reference.shape) * np.abs(reference).max()
    assert not explained(explain_difference(model, batch, target, reference + 1e-3 * noise, reference))


def test_values_that_are_no_numbers_are_not_explained() -> None:
    module, model = classifier("vgg16")
    batch, target = images("vgg16", 2), np.array([3, 4])
    reference = torch_gradient(module)(batch, target)
    found = reference.astype(np.float32)
    found[1, 0, 0, 0] = np.nan
    parity = explain_difference(model, batch, target, found, reference)
    assert parity.residual == parity.relative_l2 == parity.max_error == np.inf


def test_a_gradient_of_zero() -> None:
    _, model = classifier("vgg16")
    batch, target = images("vgg16", 1), np.array([3])
    nothing = np.zeros(batch.shape)
    assert explain_difference(model, batch, target, nothing, nothing) == GradientParity(
        images=1, max_error=0.0, relative_l2=0.0, flipped_units=0, units=0, residual=0.0
    )
    assert not explained(explain_difference(model, batch, target, nothing + 1e-6, nothing))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_resnet18_at_224(seed: int) -> None:
    """At this size flips are common: torch's own float32 gradient differs from its double one by up to a percent."""
    module = models.build("resnet18", CLASSES, input_size=224, seed=seed).eval()
    model = to_onnx(module, input_size=(224, 224))
    batch = np.random.default_rng(seed).standard_normal((3, 3, 224, 224), dtype=np.float32)
    target = np.arange(3)
    found = vanilla_gradient(build_explainer(model), batch, target)
    leaf = torch.from_numpy(batch).requires_grad_()
    single = torch.autograd.grad(module(leaf).gather(1, torch.from_numpy(target)[:, None]).sum(), leaf)[0].numpy()
    for reference in (torch_gradient(module)(batch, target), single):
        parity = explain_difference(model, batch, target, found, reference)
        assert explained(parity)
        assert parity.residual < 1e-5
        assert (parity.relative_l2 > TOLERANCE) == (parity.flipped_units > 0)
        assert parity.share_flipped < 1e-5
