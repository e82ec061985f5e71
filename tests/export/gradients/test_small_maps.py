"""Convolutions on small maps become matrix products in the explainer graph, with the same results."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export.gradients import add_input_gradient, build_explainer
from export.to_onnx import to_onnx


def run(model, feeds):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def classifier(convolution: nn.Module, size: int) -> nn.Module:
    torch.manual_seed(0)
    channels = convolution.out_channels
    return nn.Sequential(
        nn.Conv2d(3, convolution.in_channels, 1),
        nn.Tanh(),
        convolution,
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    ).eval()


CASES = {
    "1x1 map": (nn.Conv2d(16, 24, 3, padding=1), 1),
    "2x2 map": (nn.Conv2d(16, 24, 3, padding=1), 2),
    "2x2 map without bias": (nn.Conv2d(8, 16, 3, padding=1, bias=False), 2),
    "stride 2": (nn.Conv2d(16, 24, 3, stride=2, padding=1), 2),
    "dilated": (nn.Conv2d(16, 16, 3, padding=2, dilation=2), 2),
    "asymmetric kernel": (nn.Conv2d(16, 16, (5, 3), padding=(2, 1)), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_products_equal_the_convolution(case):
    convolution, size = CASES[case]
    model = to_onnx(classifier(convolution, size), input_size=(size, size))
    explainer = build_explainer(model)
    assert "Conv" not in [n.op_type for n in explainer.graph.node if convolution.in_channels in _channels(explainer, n)]
    image = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    target = np.array([1, 4])
    one = np.ones(1, np.float32)
    feeds = {"image": image, "target": target, "baseline": np.zeros_like(image), "scale": one, "weight": one}
    logits, attribution, _ = run(explainer, feeds | {"noise": np.zeros((1, *image.shape[1:]), np.float32)})
    expected_logits, expected = run(add_input_gradient(model), {"image": image, "target": target})
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(attribution, expected, rtol=1e-4, atol=1e-6)


def _channels(model, node):
    """Input channels of a convolution with a kernel larger than one, read from its weight."""
    weights = {t.name: t.dims for t in model.graph.initializer}
    dims = weights.get(node.input[1], ()) if node.op_type == "Conv" and len(node.input) > 1 else ()
    return [dims[1]] if len(dims) == 4 and dims[2] * dims[3] > 1 else []


def test_weights_are_stored_once():
    model = to_onnx(classifier(nn.Conv2d(256, 256, 3, padding=1), 2), input_size=(2, 2))
    assert build_explainer(model).ByteSize() <= 1.05 * model.ByteSize()


def test_larger_maps_stay_convolutions():
    model = to_onnx(classifier(nn.Conv2d(16, 24, 3, padding=1), 4), input_size=(4, 4))
    assert any(16 in _channels(build_explainer(model), n) for n in build_explainer(model).graph.node)
