"""Which layers can be quantised, and how far their outputs commute with it."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from calibration.layers import find_layers
from edge_runtime.errors import InputError
from export.to_onnx import to_onnx


class Branches(nn.Module):
    """A residual sum, and a tensor with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = nn.functional.max_pool2d((x + self.body(x)).relu(), 2)
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Branches().eval(), input_size=(8, 8))


def test_layers_in_order(model: onnx.ModelProto) -> None:
    network = find_layers(model)
    assert [(layer.name, layer.operator, layer.axis) for layer in network.layers] == [
        ("stem", "Conv", 0),
        ("body", "Conv", 0),
        ("head", "Gemm", 0),
    ]
    stem, body, head = network.layers
    by_output = {name: node for node in network.prepared.model.graph.node for name in node.output}
    assert by_output[stem.settled].op_type == "Relu"
    assert body.settled == body.output  # a sum follows, which does not commute
    assert by_output[head.source].op_type == "Reshape"
    assert network.layer("body") is body


def test_clip_commutes_from_zero_alone() -> None:
    for low, commutes in ((0.0, True), (-1.0, False)):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(low, 6.0), nn.Flatten(), nn.Linear(4 * 36, 2))
        network = find_layers(to_onnx(net.eval(), input_size=(8, 8)))
        assert (network.layers[0].settled != network.layers[0].output) == commutes


def test_unknown_layer(model: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="unknown layer 'bodi'; nearest: body"):
        find_layers(model).layer("bodi")


def test_nothing_to_quantise() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh())
    with pytest.raises(InputError, match="no layer that can be quantised"):
        find_layers(to_onnx(net.eval(), input_size=(8, 8)))
