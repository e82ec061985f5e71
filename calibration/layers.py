"""The layers that can be quantised: convolutions and matrix products with stored weights, and what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edge_runtime.errors import InputError, unknown
from export.gradients.prepare import Prepared, prepare
from export.kinks import attributes

# Operators of graphs that are quantised already, in whatever form.
QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QGemm", "QLinearAdd",
}  # fmt: skip
# max(round(x)) is round(max(x)) and so on: quantising before or after these operators gives the same values, if the
# scale is that of their result. (Clip too, where it begins at 0.)
COMMUTING = {"Relu", "MaxPool", "Reshape", "Flatten", "Squeeze", "Clip"}


@dataclass(frozen=True)
class Layer:
    """One layer with weights. ``node`` is its place in the graph, ``axis`` the weight's axis of output channels.

    ``source`` is the tensor that it reads, ``output`` the one that it writes. ``settled`` follows ``output`` through
    operators that commute with quantisation, as long as nothing else reads what lies between.
    """

    name: str
    operator: str
    node: int
    source: str
    weight: str
    bias: str | None
    axis: int
    output: str
    settled: str


@dataclass(frozen=True)
class Network:
    """A prepared classifier and its layers in the order of computation; ``others`` says why a layer is none of them."""

    prepared: Prepared
    layers: tuple[Layer, ...]
    others: dict[str, str]

    def layer(self, name: str) -> Layer:
        """Return a layer by name; raises InputError for an unknown one."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown("layer", name, [layer.name for layer in self.layers])


def find_layers(model: onnx.ModelProto) -> Network:
    """Prepare classifier ``model`` (which is not changed) and find its layers.

    Raises InputError for a model that is quantised already, or that has no layer to quantise.
    """
    found = sorted({node.op_type for node in model.graph.node} & QUANTISED)
    if found:
        raise InputError(f"the classifier is quantised already ({found[0]}); calibrate its floating-point original")
    prepared = prepare(model)
    graph = prepared.model.graph
    stored = {tensor.name for tensor in graph.initializer}
    readers = read_by(graph)
    layers: list[Layer] = []
    others: dict[str, str] = {}
    for position, node in enumerate(graph.node):
        rule = WEIGHTED.get(node.op_type)
        if rule is None or prepared.dependent.isdisjoint(node.input):
            continue
        axis = rule(prepared, node)
        name = layer_name(node, stored, [layer.name for layer in layers])
        if isinstance(axis, str):
            others[name] = axis
            continue
        layers.append(
            Layer(
                name=name,
                operator=node.op_type,
                node=position,
                source=node.input[0],
                weight=node.input[1],
                bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
                axis=axis,
                output=node.output[0],
                settled=settle(prepared, node.output[0], readers),
            )
        )
    if not layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in others.items()) or "it has no Conv, Gemm or MatMul"
        raise InputError(f"the classifier has no layer that can be quantised ({reasons})")
    return Network(prepared, tuple(layers), others)


def read_by(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor, once for every time that they do."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def settle(p: Prepared, tensor: str, readers: dict[str, list[onnx.NodeProto]]) -> str:
    """Return the last tensor that ``tensor`` becomes through commuting operators alone."""
    while tensor != p.logits and len(readers.get(tensor, [])) == 1:
        (node,) = readers[tensor]
        if not commutes(p, node) or node.input[0] != tensor:
            break
        tensor = node.output[0]
    return tensor


def commutes(p: Prepared, node: onnx.NodeProto) -> bool:
    """Tell whether quantising before a node is the same as after it."""
    if node.op_type != "Clip":
        return node.op_type in COMMUTING and len(node.output) == 1
    low = p.constants.get(node.input[1]) if len(node.input) > 1 else None
    return low is not None and not low.any()


def layer_name(node: onnx.NodeProto, stored: set[str], taken: Sequence[str]) -> str:
    """Return the weight's name without its ending, as PyTorch names modules, or else what the node is called."""
    weight = node.input[1].removesuffix(".weight") if node.input[1] in stored else ""
    candidates = [weight] if weight and not weight.startswith("val_") else []
    candidates += [node.name, node.output[0]]
    return next(name for name in candidates if name and name not in taken)


def _conv(p: Prepared, node: onnx.NodeProto) -> int | str:
    return 0 if _stored(p, node) else "its weights are not stored"


def _gemm(p: Prepared, node: onnx.NodeProto) -> int | str:
    found = attributes(node)
    if not _stored(p, node):
        return "its weights are not stored"
    if found.get("transA", 0) or found.get("alpha", 1.0) != 1.0 or found.get("beta", 1.0) != 1.0:
        return "it transposes or scales its input"
    return 0 if found.get("transB", 0) else 1


def _matmul(p: Prepared, node: onnx.NodeProto) -> int | str:
    if not _stored(p, node) or len(p.shapes[node.input[1]]) != 2:
        return "its second factor is no stored matrix"
    return 1


# From a node to the axis of its weight's output channels, or to the reason why it stays in floating point.
WEIGHTED: dict[str, Callable[[Prepared, onnx.NodeProto], int | str]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _stored(p: Prepared, node: onnx.NodeProto) -> bool:
    stored = {tensor.name for tensor in p.model.graph.initializer}
    bias = node.input[2] if len(node.input) > 2 else ""
    return node.input[0] in p.dependent and node.input[1] in stored and (not bias or bias in stored)
