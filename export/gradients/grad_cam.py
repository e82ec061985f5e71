"""Grad-CAM (Selvaraju et al. 2017): the walk stops at a feature map instead of the image."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edge_runtime.errors import ExportError, unknown
from export.gradients.explainer import assemble, new_builder, one_hot, refuse_taken_names
from export.gradients.prepare import Prepared
from export.gradients.prepare import prepare as prepare_classifier
from export.gradients.walk import backward

TARGET = "target"
CAM = "cam"
# Where the spatial axes, rows and columns, lie in a tensor.
Layout = tuple[int, int]
CHANNELS_FIRST: Layout = (2, 3)
# After these an axis no longer stands for rows or columns, or positions have changed places.
REARRANGING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "GatherElements", "GatherND", "Einsum", "Gemm"}


def build_grad_cam(model: onnx.ModelProto, *, tensor: str | None = None) -> onnx.ModelProto:
    """Return ``model`` with one more input, ``target`` int64 [N], and one more output, ``cam`` [N, 1, h, w].

    cam = sum_c A_c * mean_hw(d logit[target] / d A_c) for the feature map A, ``tensor`` [N, C, h, w], or the last one
    in the graph with more than one position. The sum is signed, as Captum's LayerGradCam returns it: the paper's map
    is max(cam, 0). Enlarging it to the image is the caller's. Raises ExportError for a tensor that is no feature map,
    and for models that mix positions by attention where ``tensor`` is not given.
    """
    p = prepare_classifier(model)
    refuse_taken_names(p, [TARGET, CAM])
    feature_map = last_feature_map(p) if tensor is None else _checked(p, tensor)
    _, height, width = (d or 0 for d in p.shapes[feature_map][1:])
    b = new_builder(p, p.batch)
    gradient = backward(p, b, one_hot(p, b, TARGET), p.logits, feature_map)
    weights = b.reduce("ReduceMean", gradient, [2, 3])
    cam = b.reduce("ReduceSum", b.emit("Mul", [weights, feature_map]), [1])
    b.nodes.append(helper.make_node("Identity", [cam], [CAM], name=CAM))
    graph = p.model.graph
    target = helper.make_tensor_value_info(TARGET, TensorProto.INT64, [p.batch])
    output = helper.make_tensor_value_info(CAM, p.dtype, [p.batch, 1, height, width])
    return assemble(p, b, [*graph.input, target], [*graph.output, output], list(graph.node))


def feature_maps(p: Prepared) -> list[str]:
    """Return the tensors [N, C, h, w] whose rows and columns are those of the image, in the order of the graph."""
    layouts: dict[str, Layout] = {p.image: CHANNELS_FIRST}
    found = []
    for node in p.model.graph.node:
        before = {layouts.get(name) for name in node.input if name in p.dependent and not _is_gate(p, name)}
        layout = before.pop() if len(before) == 1 else None
        if layout is None or node.op_type in REARRANGING:
            continue
        if node.op_type == "Transpose":
            perm = helper.get_node_attr_value(node, "perm")
            layout = (perm.index(layout[0]), perm.index(layout[1]))
        elif node.op_type == "MatMul" and (node.input[1] in p.dependent or max(layout) == 3):
            continue  # attention, or a product along the rows
        for name in node.output:
            shape = p.shapes.get(name, ())
            if len(shape) != 4 or shape[0] not in (None, p.shapes[p.image][0]):
                continue
            layouts[name] = layout
            if layout == CHANNELS_FIRST and None not in shape[1:]:
                found.append(name)
    return found


def last_feature_map(p: Prepared) -> str:
    """Return the last feature map with more than one position; raises ExportError where attention follows it."""
    maps = [name for name in feature_maps(p) if _positions(p, name) > 1]
    if not maps:
        raise ExportError(
            "the model has no feature map [N, C, h, w] with more than one position; name one with tensor="
        )
    reached = {maps[-1]}
    for node in p.model.graph.node:
        if reached.isdisjoint(node.input):
            continue
        reached.update(node.output)
        if node.op_type == "MatMul" and p.dependent.issuperset(node.input):
            raise ExportError(
                f"the model mixes positions by attention ({node.name or node.output[0]!r}) after its last feature map"
                f" {maps[-1]!r}; name the feature map to explain with tensor="
            )
    return maps[-1]


def _is_gate(p: Prepared, name: str) -> bool:
    """Tell whether a tensor holds one value for each channel, which scales feature maps without having positions."""
    return _positions(p, name) == 1


def _positions(p: Prepared, name: str) -> int:
    shape = p.shapes.get(name, ())
    return (shape[2] or 0) * (shape[3] or 0) if len(shape) == 4 else 0


def _checked(p: Prepared, tensor: str) -> str:
    """Return ``tensor`` if it is a feature map that the logits depend on."""
    if tensor not in p.shapes:
        raise unknown("tensor", tensor, feature_maps(p))
    shape = p.shapes[tensor]
    if len(shape) != 4 or None in shape[1:] or tensor not in p.dependent:
        raise ExportError(f"tensor {tensor!r} is no feature map [N, C, h, w] that depends on the image; name another")
    return tensor
