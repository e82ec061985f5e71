"""Size and work of a classifier, counted on the ONNX graph: what the engine will run, not what training saw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from edge_runtime.errors import ExportError
from export.gradients.prepare import prepare

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Multiply-accumulates of one image, stored weights, and those of them that are not zero."""

    macs: int
    parameters: int
    nonzero_parameters: int


def count(model: onnx.ModelProto) -> Facts:
    """Count ``model``'s work for one image, and its float weights. Raises ExportError where a shape is not known."""
    shapes = _shapes_for_one_image(model)
    macs = 0
    for node in model.graph.node:
        rule = MACS.get(node.op_type)
        if rule is None:
            continue
        missing = [name for name in (*node.input[:2], node.output[0]) if name not in shapes]
        if missing:
            shapes = _observed_for_one_image(model) | shapes
            missing = [name for name in missing if name not in shapes]
        if missing:
            raise ExportError(
                f"the shape of {missing[0]!r} ({node.op_type} {node.name!r}) is not known; fix image size"
            )
        macs += rule(node, shapes)
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights = [array for array in weights if array.dtype.kind == "f"]
    return Facts(
        macs=macs,
        parameters=sum(array.size for array in weights),
        nonzero_parameters=sum(int(np.count_nonzero(array)) for array in weights),
    )


def _conv(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Each output value sums over one kernel: weight is [out, in/groups, *kernel]."""
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Each input value spreads over one kernel: weight is [in, out/groups, *kernel]."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _matmul(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


# Operators that multiply by weights or by other activations; all others are counted as free, as is usual.
MACS: dict[str, Callable[[onnx.NodeProto, dict[str, Shape]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _shapes_for_one_image(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shape of every tensor whose dimensions are all known once the batch is one image."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    weights = {tensor.name: tuple(tensor.dims) for tensor in one.graph.initializer}
    for value in one.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if value.name not in weights and dimensions:
            dimensions[0].ClearField("dim_param")
            dimensions[0].dim_value = 1
    del one.graph.value_info[:]
    for value in one.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = dict(weights)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dimensions = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dimensions):
            shapes[value.name] = tuple(d.dim_value for d in dimensions)
    return shapes


def _observed_for_one_image(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return what running ``model`` shows: inference gives up where a shape is computed, as by Range."""
    observed = prepare(model).shapes
    return {name: tuple(1 if d is None else d for d in shape) for name, shape in observed.items()}
