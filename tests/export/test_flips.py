"""The parity check of gradients: flipped units explain a difference, and nothing else does."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge_runtime.errors import ExportError
from edge_runtime.manifest import GradientParity
from export import flips
from export.flips import (
    TOLERANCE,
    check_gradient_parity,
    explain_difference,
    explained,
    relative_error,
    vanilla_gradient,
)
from export.gradients import RULES, build_explainer
from export.gradients.builder import Op
from export.gradients.registry import Rule
from export.to_onnx import to_onnx, torch_gradient
from tests.export.gradients.classifiers import CLASSES, classifier, images
from toolkit import models

SIZE = 32


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


class Flat(nn.Module):
    """``layers`` behind a map so flat, ``scale`` around ``shift``, that float32 makes different units equal.

    With ``back``, the shift is taken off again, and float32 has units exactly at 0 that lie beside it.
    """

    def __init__(self, scale: float, *layers: nn.Module, back: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.shift = (nn.Parameter(torch.tensor(value)) for value in (scale, 1.0))
        self.back = back
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5)).eval()
        self(torch.zeros(1, 3, SIZE, SIZE))

    def flat(self, images: torch.Tensor) -> torch.Tensor:
        raised = self.scale * images + self.shift
        return raised - self.shift if self.back else raised

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(self.flat(images))
        return result


class Steeper(nn.Module):
    """Three times as steep above 1: a comparison decides."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.where(values > 1, 3 * values - 2, values)


def chosen(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Return the decisions of a layer at ``values``, by PyTorch."""
    if not isinstance(layer, nn.MaxPool2d):
        return values > (1 if isinstance(layer, Steeper) else 0)
    indices: torch.Tensor = nn.functional.max_pool2d(
        values, layer.kernel_size, layer.stride, layer.padding, return_indices=True
    )[1]
    return indices


@dataclass(frozen=True)
class Example:
    """Gradients of ``model`` at ``images``, and how many units float32 flips by PyTorch's account where they differ."""

    module: Flat
    model: onnx.ModelProto
    images: np.ndarray
    target: np.ndarray
    found: np.ndarray
    reference: np.ndarray
    flips: int

    def parity(self) -> GradientParity:
        return explain_difference(self.model, self.images, self.target, self.found, self.reference)


def example(module: Flat, count: int = 4) -> Example:
    images = np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), np.float32)
    model, target = to_onnx(module, input_size=(SIZE, SIZE)), np.arange(count) % 5
    found = vanilla_gradient(build_explainer(model), images, target)
    reference = torch_gradient(module)(images, target)
    differ = [relative_error(f, r) > TOLERANCE for f, r in zip(found, reference, strict=True)]
    double, flipped = copy.deepcopy(module).double(), 0
    with torch.no_grad():
        single = module.flat(torch.from_numpy(images[differ]))
        exact = double.flat(torch.from_numpy(images[differ]).double())
        for layer in module.layers[:-2]:
            flipped += int((chosen(layer, single) != chosen(layer, exact)).sum())
            single, exact = layer(single), layer(exact)
    return Example(module, model, images, target, found, reference, flipped)


POOL = nn.MaxPool2d(3, 2)
FLAT = {
    "one pool": lambda: Flat(1e-5, POOL),
    "pool feeds pool": lambda: Flat(1e-5, POOL, nn.MaxPool2d(3, 1, 1)),
    "pools with a ReLU between": lambda: Flat(1e-5, POOL, nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2)),
    "few flips": lambda: Flat(1e-3, POOL),
    "ReLU": lambda: Flat(3e-3, nn.ReLU(), back=True),
    "comparison": lambda: Flat(1e-3, Steeper(), POOL),
}


@pytest.mark.parametrize("name", FLAT)
def test_flipped_units_are_counted_and_nothing_else_is_left(name: str) -> None:
    made = example(FLAT[name](), 128 if name == "ReLU" else 4)
    parity = made.parity()
    assert made.flips > 0
    assert parity.flipped_units == made.flips
    assert parity.relative_l2 > 10 * TOLERANCE
    assert parity.residual < 1e-5
    assert parity.share_flipped == made.flips / parity.units


def test_flips_do_not_hide_another_network() -> None:
    """The same decisions and the same inner values, but a head that is a little wrong on one of the two sides."""
    made = example(FLAT["pool feeds pool"]())
    with torch.no_grad():
        made.module.layers[-1].weight[:, 0] *= 1.01
    other = torch_gradient(made.module)(made.images, made.target)
    assert explained(made.parity())
    assert not explained(replace(made, reference=other).parity())
    model = to_onnx(made.module, input_size=(SIZE, SIZE))
    found = vanilla_gradient(build_explainer(model), made.images, made.target)
    assert not explained(replace(made, found=found).parity())
    assert explained(replace(made, found=found, reference=other, model=model).parity())


def test_inner_values_may_move_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = example(FLAT["one pool"]())
    monkeypatch.setattr(flips, "ROUNDING", 1e-9)  # below what float32 does at a value of 1
    parity = made.parity()
    assert parity.residual == parity.relative_l2
    assert not explained(parity)


def test_how_far_a_tensor_moved() -> None:
    exact = np.array([0.0, 3.0, 4.0, 0.0])  # a root mean square of 2.5
    assert flips.moved(np.array([0.25, 3.0, 4.0, 0.0], np.float32), exact) == 0.1
    assert flips.moved(np.array([0.0, 3.0, 4.65, 0.0]), exact) == pytest.approx(0.1)
    assert flips.moved(np.zeros(3), np.zeros(3)) == 0
    assert flips.moved(np.array([0.0, 1e-30]), np.zeros(2)) > 1
    assert flips.moved(np.array([np.nan, 1.0]), np.ones(2)) == np.inf
    assert flips.moved(np.zeros(0), np.zeros(0)) == 0


class Normalised(nn.Module):
    """1x1 convolution of the first channel, batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.norm, self.head = nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.Linear(64 * 36, 5)
        with torch.no_grad():
            self.convolution.weight[:, 1:] = 0
            for values in (self.norm.running_mean, self.norm.bias):
                values.normal_()
            for values in (self.norm.running_var, self.norm.weight):
                values.uniform_(0.5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.norm(self.convolution(images)).relu().flatten(1))
        return result


def test_units_that_folded_weights_flip_are_no_difference() -> None:
    """Pixels where a unit is just above 0 in the network and just below with its rounded weights, and the reverse."""
    module = Normalised().eval()
    with torch.no_grad():
        units = torch.stack(
            [module.norm(module.convolution(torch.full((1, 3, 1, 1), x)))[0, :, 0, 0] for x in (0.0, 1.0)]
        )
    roots = (-units[0] / (units[1] - units[0])).numpy()
    near = np.sort(np.abs(roots))[:36]
    batch = np.zeros((1, 3, 6, 6), np.float32)
    batch[0, 0] = roots[np.isin(np.abs(roots), near)][:36].reshape(6, 6)
    target = np.array([1])
    model = to_onnx(module, input_size=(6, 6))
    found = vanilla_gradient(build_explainer(model), batch, target)
    reference = torch_gradient(module)(batch, target)
    assert not explained(explain_difference(model, batch, target, found, reference))
    parity = explain_difference(
        model, batch, target, found, reference, lambda: to_onnx(module, input_size=(6, 6), fold=False)
    )
    assert parity.flipped_units > 0
    assert explained(parity)


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
    assert 10 * TOLERANCE < parity.relative_l2 < 0.05
    assert parity.residual == pytest.approx(parity.relative_l2, rel=1e-3)
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


def test_a_network_without_kinks() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    model, batch, target = to_onnx(module, input_size=(8, 8)), np.ones((1, 3, 8, 8), np.float32), np.array([2])
    reference = torch_gradient(module)(batch, target)
    assert explained(explain_difference(model, batch, target, reference.astype(np.float32), reference))
    parity = explain_difference(model, batch, target, 1.01 * reference, reference)
    assert (parity.flipped_units, parity.units) == (0, 0)
    assert parity.residual == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_resnet18_at_224(seed: int) -> None:
    """At this size flips are common: float32 gradients differ from those in double by up to a percent."""
    module = models.build("resnet18", CLASSES, input_size=224, seed=seed).eval()
    model = to_onnx(module, input_size=(224, 224))
    batch = np.random.default_rng(seed).standard_normal((3, 3, 224, 224), dtype=np.float32)
    target = np.arange(3)
    found = vanilla_gradient(build_explainer(model), batch, target)
    unfolded = partial(to_onnx, module, input_size=(224, 224), fold=False)
    parity = explain_difference(model, batch, target, found, torch_gradient(module)(batch, target), unfolded)
    assert parity.residual < 1e-5
    assert (parity.relative_l2 > TOLERANCE) == (parity.flipped_units > 0)
    assert parity.share_flipped < 1e-5
