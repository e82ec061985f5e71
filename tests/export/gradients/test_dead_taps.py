"""Kernel positions that meet only padding are cut in both passes; test_geometries.py checks that sums stay equal."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper, parser

from export.fold import fold_constants
from export.gradients import add_input_gradient, build_explainer


def network(kernel: int, attributes: str, size: int) -> onnx.ModelProto:
    """Return Conv, global pool, flatten: one convolution on a map of size x size."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 3, {size}, {size}] image, float[4, 3, {kernel}, {kernel}] w) => (float[N, 4] logits) {{
        y = Conv<{attributes}>(image, w)
        mean = GlobalAveragePool(y)
        logits = Flatten(mean)
    }}"""
    model = parser.parse_model(text)
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3, kernel, kernel], [0.1] * (12 * kernel**2))
    model.graph.initializer.append(weight)
    del model.graph.input[1:]
    return model


def forward_kernels(model: onnx.ModelProto) -> list[list[int]]:
    """Return the spatial shapes of the weights of convolutions that read the image."""
    folded = fold_constants(model)
    sizes = {tensor.name: list(tensor.dims)[2:] for tensor in folded.graph.initializer}
    return [sizes[n.input[1]] for n in folded.graph.node if n.op_type == "Conv" and n.input[0] == "image"]


@pytest.mark.parametrize(
    ("kernel", "attributes", "size", "expected"),
    [
        (3, "pads=[1,1,1,1]", 1, [1, 1]),
        (3, "pads=[1,1,1,1], strides=[2,2]", 2, [2, 2]),
        (7, "pads=[3,3,3,3]", 2, [3, 3]),
        (3, "pads=[0,2,0,0]", 3, [3, 3]),  # every tap meets the image
        (3, "pads=[2,2,2,2], dilations=[2,2]", 2, [1, 1]),
        (3, 'auto_pad="SAME_UPPER"', 1, [1, 1]),
        (3, "pads=[1,1,1,1]", 2, [3, 3]),
    ],
)
def test_only_taps_that_meet_the_input_are_left(kernel, attributes, size, expected) -> None:
    assert forward_kernels(add_input_gradient(network(kernel, attributes, size))) == [expected]


def test_weights_stay_stored_once() -> None:
    model = network(3, "pads=[1,1,1,1]", 1)
    for graph in (add_input_gradient(model), build_explainer(model)):
        assert [list(t.dims) for t in graph.graph.initializer if len(t.dims) == 4] == [[4, 3, 3, 3]]
