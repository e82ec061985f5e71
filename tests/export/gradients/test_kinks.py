"""Where a function has no derivative, the gradient is the one that PyTorch takes: ties, zeros and bounds, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from export.gradients import add_input_gradient
from tests.export.gradients.classifiers import run
from tests.export.gradients.rule_case import Case, case
from tests.export.gradients.test_rules import finished

Function = Callable[[torch.Tensor], torch.Tensor]


def grid(shape: tuple[int, ...], values: int, low: int, scale: float, seed: int) -> np.ndarray:
    """Return integers times ``scale``: with few values most windows hold ties."""
    return (np.random.default_rng(seed).integers(0, values, (2, *shape)) + low).astype(np.float32) * np.float32(scale)


def assert_equals_pytorch(c: Case, function: Function, images: np.ndarray) -> None:
    """Compare the gradient of a random combination of the outputs, which are few products and so equal to rounding."""
    classifier = finished(c, 20)
    target = np.array([0, 3])
    found = run(add_input_gradient(classifier), x=images, target=target)["gradient"]
    head = next(numpy_helper.to_array(t) for t in classifier.graph.initializer if t.name == "head").copy()
    x = torch.from_numpy(images).double().requires_grad_()
    logits = function(x).flatten(1) @ torch.from_numpy(head).double()
    (expected,) = torch.autograd.grad(logits.gather(1, torch.from_numpy(target)[:, None]).sum(), x)
    assert np.abs(found - expected.numpy()).max() <= 1e-5 * max(1.0, float(expected.abs().max()))


POOLS = [
    ("kernel_shape=[2,2], strides=[2,2]", {"kernel_size": 2}),
    ("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ("kernel_shape=[2,3], strides=[3,2]", {"kernel_size": (2, 3), "stride": (3, 2)}),
    ("kernel_shape=[2,2], dilations=[2,2], strides=[1,1]", {"kernel_size": 2, "dilation": 2, "stride": 1}),
    ("kernel_shape=[2,2], dilations=[2,3], strides=[2,2], pads=[1,1,1,1]",
     {"kernel_size": 2, "dilation": (2, 3), "stride": 2, "padding": 1}),
]  # fmt: skip


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(("attributes", "options"), POOLS, ids=[attributes for attributes, _ in POOLS])
@pytest.mark.parametrize(("low", "scale"), [(0, 1.0), (-3, 0.1), (-40, 1e4)], ids=["zeros", "negative", "large"])
def test_max_pool_ties_go_to_the_first_element(
    attributes: str, options: dict[str, int], low: int, scale: float, channels: int
) -> None:
    shape = (channels, 7, 8)
    images = grid(shape, 3, low, scale, seed=channels)
    assert_equals_pytorch(case(f"y = MaxPool<{attributes}>(x)", shape), lambda x: F.max_pool2d(x, **options), images)
    assert_equals_pytorch(  # behind a Relu the rule pads with zeros
        case(f"r = Relu(x)\ny = MaxPool<{attributes}>(r)", shape), lambda x: F.max_pool2d(x.relu(), **options), images
    )


EDGES = [
    (case("y = Relu(x)"), F.relu),
    (case("y = LeakyRelu<alpha=0.25>(x)"), lambda x: F.leaky_relu(x, 0.25)),
    (case("y = Elu<alpha=0.5>(x)"), lambda x: F.elu(x, 0.5)),
    (case("y = Celu<alpha=0.5>(x)"), lambda x: F.celu(x, 0.5)),
    (case("y = Selu(x)"), F.selu),
    (case("y = ThresholdedRelu<alpha=1.0>(x)"), lambda x: F.threshold(x, 1.0, 0.0)),
    (case("y = Abs(x)"), torch.abs),
    (case("y = Clip(x, lo, hi)", lo=0.0, hi=2.0), lambda x: F.hardtanh(x, 0.0, 2.0)),
    (case("y = Clip(x, lo)", lo=-1.0), lambda x: F.hardtanh(x, -1.0, 1e9)),
    (case("y = HardSigmoid<alpha=0.1666666667>(x)"), F.hardsigmoid),
    (case("y = HardSwish(x)", since=14), F.hardswish),
    (case("n = Neg(x)\ny = Max(x, n)"), lambda x: torch.maximum(x, -x)),
    (case("n = Neg(x)\ny = Min(x, n)"), lambda x: torch.minimum(x, -x)),
    (case("y = ReduceMax(x, k)", since=18, k=[2, 3]), lambda x: x.amax((2, 3))),
    (case("y = ReduceMin(x, k)", since=18, k=[1]), lambda x: x.amin(1)),
    (case("y = GlobalMaxPool(x)"), lambda x: F.adaptive_max_pool2d(x, 1)),
    (case("y = Pow(x, k)", k=2.0), lambda x: x**2),
    (case("y = Pow(x, k)", k=1.0), lambda x: x**1),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 6, 5), (16, 5, 4)], ids=str)
@pytest.mark.parametrize(("c", "function"), EDGES, ids=[str(c) for c, _ in EDGES])
def test_ties_zeros_and_bounds(c: Case, function: Function, shape: tuple[int, ...]) -> None:
    assert_equals_pytorch(replace(c, shape=shape), function, grid(shape, 9, -4, 1.0, seed=5))


def test_the_norm_of_zeros_has_gradient_zero() -> None:
    c = case("y = ReduceL2(x, k)", since=18, k=[2])
    images = grid(c.shape, 2, 0, 0.0, seed=0)
    assert_equals_pytorch(c, lambda x: torch.linalg.vector_norm(x, dim=2), images)


def test_a_target_out_of_range_gives_zeros() -> None:
    c = case("y = Relu(x)")
    graph = add_input_gradient(finished(c, 20))
    images = grid(c.shape, 9, -4, 1.0, seed=5)
    found = run(graph, x=images, target=np.array([4, -1]))["gradient"]
    assert not found.any()
