"""From a classifier to a graph with its input gradient, and to the explainer graph over a weighted path."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edge_runtime.errors import ExportError
from export.gradients.builder import Builder
from export.gradients.dead_taps import without_dead_taps
from export.gradients.prepare import Prepared, prepare
from export.gradients.registry import RULES
from export.gradients.small_maps import as_products
from export.gradients.walk import Rules, backward


def add_input_gradient(
    model: onnx.ModelProto,
    *,
    target_input: str = "target",
    gradient_output: str = "gradient",
    rules: Rules = RULES,
) -> onnx.ModelProto:
    """Return ``model`` with one more input, ``target`` int64 [N], and one more output, d logit[target] / d image.

    ``model`` takes one image [N, C, H, W] and gives logits [N, K] as its first output; it is not changed. The gradient
    has the image's shape and type; a target outside 0 .. K - 1 gives zeros. Raises
    :class:`~edge_runtime.errors.ExportError` for what is no such classifier and
    :class:`~edge_runtime.errors.UnsupportedOperatorError` for operators without a rule.
    """
    p = prepare(model)
    refuse_taken_names(p, [target_input, gradient_output])
    b = new_builder(p, p.batch)
    without_dead_taps(p, b)
    gradient = backward(p, b, one_hot(p, b, target_input), p.logits, p.image, rules)
    b.nodes.append(helper.make_node("Identity", [gradient], [gradient_output], name=gradient_output))
    graph = p.model.graph
    target = helper.make_tensor_value_info(target_input, TensorProto.INT64, [p.batch])
    output = helper.make_tensor_value_info(gradient_output, p.dtype, image_dims(p, p.batch))
    return assemble(p, b, [*graph.input, target], [*graph.output, output], list(graph.node))


def build_explainer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph that evaluates a weighted path of sample points: one graph for VG, IG and SG.

    With x_k = baseline + scale_k * (image - baseline) + noise_k, k = 1 .. K, and g_k = d logit[target](x_k) / d x:

    inputs: ``image`` and ``baseline`` [N, C, H, W], ``target`` int64 [N], ``scale`` and ``weight`` [K], ``noise``
    [K, C, H, W]; outputs: ``logits`` [N * K, classes] (row n * K + k belongs to point k of image n), ``attribution``
    = sum_k weight_k g_k and ``magnitude`` = sum_k weight_k |g_k|, both [N, C, H, W].

    Raises as :func:`add_input_gradient`, and for models whose batch size is fixed.
    """
    p = prepare(model)
    if p.shapes[p.image][0] is not None:
        raise ExportError(
            f"input {p.image!r} has a fixed batch of {p.shapes[p.image][0]};"
            " the explainer evaluates many points at once: export the model with a dynamic batch"
        )
    b = new_builder(p, "N*K")
    _rename_tensor(p, {p.image: "grad/points", p.logits: "logits"})
    without_dead_taps(p, b)
    as_products(p, b)
    before = len(b.nodes)
    _, channels, height, width = p.shapes[p.image]
    pixels = int((channels or 0) * (height or 0) * (width or 0))
    image, baseline = (b.emit("Unsqueeze", [name, b.ints([1])]) for name in ("image", "baseline"))
    scale = b.emit("Unsqueeze", ["scale", b.ints([0, 2, 3, 4])])
    noise = b.emit("Unsqueeze", ["noise", b.ints([0])])
    path = b.emit("Add", [baseline, b.emit("Mul", [scale, b.emit("Sub", [image, baseline])])])
    points = b.reshape(b.emit("Add", [path, noise]), p.shapes[p.image])
    b.nodes.append(helper.make_node("Identity", [points], [p.image]))
    head = b.nodes[before:]
    del b.nodes[before:]
    one = b.emit("Add", [b.emit("Mul", ["scale", b.constant(0.0)]), b.constant(1.0)])
    repeated = b.emit(
        "Mul", [b.emit("Unsqueeze", [one_hot(p, b, "target"), b.ints([1])]), b.emit("Unsqueeze", [one, b.ints([0, 2])])]
    )
    seed = b.reshape(repeated, p.shapes[p.logits])
    # named alike, so that engines know the batch of the forward and of the backward pass to be the same
    for name, shape in ((p.image, p.shapes[p.image]), (points, p.shapes[p.image]), (seed, p.shapes[p.logits])):
        b.declare(name, shape)
    gradient = backward(p, b, seed, p.logits, p.image)
    per_point = b.emit("Concat", [b.ints([-1]), b.emit("Shape", ["scale"]), b.ints([pixels])], axis=0)
    rows = b.emit("Reshape", [gradient, per_point])
    weight = b.emit("Unsqueeze", ["weight", b.ints([0])])
    for name, values in (("attribution", rows), ("magnitude", b.emit("Abs", [rows]))):
        total = b.emit("MatMul", [weight, values])
        b.nodes.append(
            helper.make_node(
                "Reshape", [total, b.ints([-1, *(d or 0 for d in p.shapes[p.image][1:])])], [name], name=name
            )
        )
    dims = image_dims(p, "N")
    inputs = [
        helper.make_tensor_value_info("image", p.dtype, dims),
        helper.make_tensor_value_info("target", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("baseline", p.dtype, dims),
        helper.make_tensor_value_info("scale", p.dtype, ["K"]),
        helper.make_tensor_value_info("weight", p.dtype, ["K"]),
        helper.make_tensor_value_info("noise", p.dtype, image_dims(p, "K")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", p.dtype, ["N*K", p.shapes[p.logits][1]]),
        helper.make_tensor_value_info("attribution", p.dtype, dims),
        helper.make_tensor_value_info("magnitude", p.dtype, dims),
    ]
    return assemble(p, b, inputs, outputs, [*head, *p.model.graph.node])


def one_hot(p: Prepared, b: Builder, target: str) -> str:
    """Emit the one-hot rows [N, K] of the target classes: d logit[target] / d logits."""
    classes = p.shapes[p.logits][1]
    if classes is None:
        raise ExportError(f"output {p.logits!r} has no fixed number of classes; export the model with one")
    column = b.emit("Unsqueeze", [target, b.ints([1])])
    hit = b.emit("Equal", [column, b.constant([list(range(classes))], "int64")])
    return b.cast(hit, p.dtype)


def new_builder(p: Prepared, batch: int | str) -> Builder:
    """Return an empty builder on top of the prepared graph."""
    producers = {name: node.op_type for node in p.model.graph.node for name in node.output if name}
    return Builder(p.shapes, p.constants, p.dtype, p.opset, producers, batch)


def refuse_taken_names(p: Prepared, names: list[str]) -> None:
    """Raise ExportError where the model already has a tensor of one of the names."""
    for name in names:
        if name in p.shapes:
            raise ExportError(f"the model already has a tensor named {name!r}; choose another name")


def _rename_tensor(p: Prepared, names: dict[str, str]) -> None:
    """Rename tensors of the prepared model, moving others that bear a wanted name out of the way."""
    wanted = {"image", "target", "baseline", "scale", "weight", "noise", "attribution", "magnitude"} | set(
        names.values()
    )
    final = dict(names)
    for name in wanted & (set(p.shapes) - set(names)):
        final[name] = f"model/{name}"
    for node in p.model.graph.node:
        node.input[:] = [final.get(name, name) for name in node.input]
        node.output[:] = [final.get(name, name) for name in node.output]
    for tensor in p.model.graph.initializer:
        tensor.name = final.get(tensor.name, tensor.name)
    for old, new in final.items():
        p.shapes[new] = p.shapes.pop(old)
        if old in p.constants:
            p.constants[new] = p.constants[old]
    p.image, p.logits = final.get(p.image, p.image), final.get(p.logits, p.logits)


def image_dims(p: Prepared, first: int | str) -> list[int | str]:
    """Return the image's dimensions behind ``first``."""
    return [first, *(d or 0 for d in p.shapes[p.image][1:])]


def assemble(
    p: Prepared,
    b: Builder,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    forward: list[onnx.NodeProto],
) -> onnx.ModelProto:
    """Assemble and check the model: only what the outputs need, in an order that frees activations early."""
    wanted = {output.name for output in outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed([*forward, *b.nodes]):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    kept.reverse()
    initializers = [t for t in [*p.model.graph.initializer, *b.initializers] if t.name in wanted]
    named = [info for info in b.value_info if info.name in wanted]
    graph = helper.make_graph(kept, p.model.graph.name or "classifier", inputs, outputs, initializers, value_info=named)
    model = helper.make_model(
        graph, opset_imports=p.model.opset_import, ir_version=p.model.ir_version, producer_name="roadworthy"
    )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the model is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    return model
