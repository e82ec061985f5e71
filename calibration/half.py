"""FP16, strongly typed: weights, activations and gradients in half precision, casts at the graph's edges alone.

onnxruntime's converter turns the classifier over. ``classifier.fp16.onnx`` takes and gives float32; its casts stand
behind ``image`` and before ``logits``. ``explainer.fp16.onnx`` computes its sample points in float32, casts each point,
runs the network forward and backward in FP16, casts each gradient back, and adds them up in float32: a sum of fifty
gradients would lose in FP16 what each of them still holds.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from calibration.quantise import Quantised
from export.gradients import build_explainer

NAME = "fp16"
RESULTS = ("attribution", "magnitude")


def to_half(classifier: onnx.ModelProto) -> Quantised:
    """Return ``classifier`` and its explainer in FP16, with the interfaces that they have in FP32."""
    return Quantised(
        classifier=_converted(classifier, keep_io_types=True),
        explainer=_float_edges(build_explainer(_converted(classifier, keep_io_types=False))),
        kept=(),
    )


def _converted(classifier: onnx.ModelProto, *, keep_io_types: bool) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(classifier)
    half: onnx.ModelProto = convert_float_to_float16(copied, keep_io_types=keep_io_types)
    # the converter appends its casts of the inputs; a valid graph has them before their readers
    given = {value.name for value in half.graph.input}
    casts = [node for node in half.graph.node if node.op_type == "Cast" and node.input[0] in given]
    rest = [node for node in half.graph.node if node not in casts]
    del half.graph.node[:]
    half.graph.node.extend([*casts, *rest])
    return half


def _float_edges(explainer: onnx.ModelProto) -> onnx.ModelProto:
    """Give a half-precision explainer float32 inputs and outputs, and compute its path and its sums in float32."""
    graph = explainer.graph
    made = {name: node for node in graph.node for name in node.output}
    sums = [made[made[name].input[0]] for name in RESULTS]  # MatMul of weights and gradients
    (rows,) = {node.input[1] for node in sums if made[node.input[1]].op_type == "Reshape"}
    gradient = made[rows].input[0]
    (start,) = [node for node in graph.node if node.op_type == "Identity" and "grad/points" in node.output]
    path = _ancestors(start, made)
    nodes = [helper.make_node("Cast", ["scale"], ["scale/half"], to=TensorProto.FLOAT16)]
    for node in graph.node:
        if node is start:
            nodes.append(helper.make_node("Cast", node.input, node.output, node.name, to=TensorProto.FLOAT16))
            continue
        if id(node) not in path and node.op_type != "Shape":
            node.input[:] = ["scale/half" if name == "scale" else name for name in node.input]
        if node.output[0] == rows:
            nodes.append(helper.make_node("Cast", [gradient], [f"{gradient}/float"], to=TensorProto.FLOAT))
            node.input[0] = f"{gradient}/float"
        node.output[:] = ["logits/half" if name == "logits" else name for name in node.output]
        node.input[:] = ["logits/half" if name == "logits" else name for name in node.input]
        nodes.append(node)
    nodes.append(helper.make_node("Cast", ["logits/half"], ["logits"], to=TensorProto.FLOAT))
    fresh = onnx.ModelProto()
    fresh.CopyFrom(explainer)
    del fresh.graph.node[:], fresh.graph.value_info[:]
    fresh.graph.node.extend(nodes)
    for value in (*fresh.graph.input, *fresh.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(fresh, full_check=True)
    return fresh


def _ancestors(node: onnx.NodeProto, made: dict[str, onnx.NodeProto]) -> set[int]:
    """Return the identities of the nodes that ``node`` depends on."""
    found: set[int] = set()
    left = [made[name] for name in node.input if name in made]
    while left:
        each = left.pop()
        if id(each) not in found:
            found.add(id(each))
            left += [made[name] for name in each.input if name in made]
    return found
