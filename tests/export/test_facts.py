"""Work and size of a graph, against counts done by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ExportError
from export.facts import MACS, Facts, count


def model(nodes: list[onnx.NodeProto], image: list[object], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


# operator -> (node, image shape, weights, multiply-accumulates counted by hand)
CASES: dict[str, tuple[onnx.NodeProto, list[object], dict[str, np.ndarray], int]] = {
    "Conv": (
        helper.make_node("Conv", ["image", "w"], ["logits"], kernel_shape=[3, 3], group=2, strides=[2, 2]),
        ["N", 4, 9, 9],
        {"w": np.ones((6, 2, 3, 3))},
        6 * 4 * 4 * (2 * 3 * 3),
    ),
    "ConvTranspose": (
        helper.make_node("ConvTranspose", ["image", "w"], ["logits"], kernel_shape=[2, 2], strides=[2, 2]),
        ["N", 4, 5, 5],
        {"w": np.ones((4, 3, 2, 2))},
        4 * 5 * 5 * (3 * 2 * 2),
    ),
    "Gemm": (
        helper.make_node("Gemm", ["image", "w"], ["logits"], transB=1),
        ["N", 7],
        {"w": np.ones((5, 7))},
        5 * 7,
    ),
    "MatMul": (
        helper.make_node("MatMul", ["image", "w"], ["logits"]),
        ["N", 3, 7],
        {"w": np.ones((7, 5))},
        3 * 5 * 7,
    ),
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == set(MACS)


@pytest.mark.parametrize("name", CASES)
def test_counts_by_hand(name: str) -> None:
    node, image, weights, macs = CASES[name]
    assert count(model([node], image, weights)).macs == macs


def test_zero_weights_are_counted_apart() -> None:
    weights = np.ones((5, 7))
    weights[:, :3] = 0
    node = helper.make_node("Gemm", ["image", "w"], ["logits"], transB=1)
    assert count(model([node], ["N", 7], {"w": weights})) == Facts(macs=35, parameters=35, nonzero_parameters=20)


def test_an_unknown_image_size_is_an_error() -> None:
    node, _, weights, _ = CASES["Conv"]
    with pytest.raises(ExportError, match="give the input size"):
        count(model([node], ["N", 4, "H", "W"], weights))


def test_shapes_that_inference_gives_up_on_are_observed() -> None:
    """ConvNeXt's pooling is exported as a Gather by Range over the batch."""
    counted = model(
        [
            helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
            helper.make_node("Squeeze", ["batch"], ["limit"]),
            helper.make_node("Range", ["zero", "limit", "one"], ["order"]),
            helper.make_node("Gather", ["image", "order"], ["gathered"]),
            helper.make_node("Flatten", ["gathered"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
        ],
        ["N", 3, 2, 2],
        {"w": np.ones((5, 12))},
    )
    for name, value in (("zero", 0), ("one", 1)):
        counted.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    assert count(counted) == Facts(macs=60, parameters=60, nonzero_parameters=60)
