"""Bringing an ONNX classifier into the form that the walk differentiates, and refusing what is none.

Shapes and constants are *observed*, not inferred: the model runs on onnxruntime at two batch sizes, every tensor that
does not depend on the image's values is recorded, and so is every tensor's shape. What is equal in both runs is
constant and becomes an initializer (this folds Shape arithmetic, ``If`` and ``Range`` of any exporter); what differs
follows the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from edge_runtime.errors import ExportError
from export.einsum import lower_case_equations
from export.gradients.builder import Array, Shape
from export.gradients.observe import LazyConstants, dependent_tensors, observe, reads, subgraphs
from export.gradients.registry import NO_GRADIENT, RULES

OLDEST_OPSET = 13
CONTROL_FLOW = {"If", "Loop", "Scan"}
SEQUENCE_OPERATORS = {
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip
DATA_SHAPED = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
# Functions of the standard that must stay whole: written out, they round, and the gradient would silently be zero.
WHOLE_FUNCTIONS = {"DynamicQuantizeLinear", "SequenceMap"}


@dataclass
class Prepared:
    """A classifier in which every tensor's shape is known.

    ``image`` and ``logits`` name its input and its output; ``shapes`` maps every tensor to its shape, None marking a
    dimension that follows the batch; ``constants`` maps the tensors whose value is known (initializers and folded
    ones); ``batch`` is the batch's size or name; ``dependent`` holds the tensors that depend on the
    image's values.
    """

    model: onnx.ModelProto
    image: str
    logits: str
    shapes: dict[str, Shape]
    constants: dict[str, Array]
    dependent: set[str]
    opset: int
    dtype: int
    batch: int | str


def prepare(model: onnx.ModelProto) -> Prepared:
    """Check and normalise ``model``; the argument is not changed.

    Raises :class:`~edge_runtime.errors.ExportError` for external data, local functions, more than one image input, an
    output that is not [N, K] logits, unknown spatial sizes, and control flow or sequences that do not fold away.
    """
    opset = _check(model)
    fresh = onnx.ModelProto()
    fresh.CopyFrom(model)
    image = _image_input(fresh.graph)
    if _expand_functions(fresh, image.name, opset):
        image = _image_input(fresh.graph)
    graph = fresh.graph
    batch = image.type.tensor_type.shape.dim[0]
    if not batch.dim_value and not batch.dim_param:
        batch.dim_param = "N"
    del graph.value_info[:]  # observed anew; the exporter's may name dimensions that fold
    _constants_to_initializers(graph)
    lower_case_equations(graph)
    constants = LazyConstants(graph.initializer)
    while True:
        shapes, folded = observe(fresh, image, constants)
        constants.update(folded)
        _replace_folded(graph, folded)
        if not _inline_if(graph, constants):
            break
    _drop_unused(graph)
    logits = graph.output[0].name
    _refuse_what_did_not_fold(graph, logits, image.name)
    if len(shapes[logits]) != 2:
        raise ExportError(
            f"output {logits!r} has shape {_show(shapes[logits])}; a classifier's logits are [N, K]:"
            " make such an output the first"
        )
    for output in graph.output:
        if not output.type.tensor_type.HasField("shape"):
            kind = output.type.tensor_type.elem_type
            output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shapes[output.name]))
    return Prepared(
        model=fresh,
        image=image.name,
        logits=logits,
        shapes=shapes,
        constants=constants,
        dependent=dependent_tensors(graph, {image.name}),
        opset=opset,
        dtype=image.type.tensor_type.elem_type,
        batch=batch.dim_value or batch.dim_param,
    )


def _check(model: onnx.ModelProto) -> int:
    """Refuse what cannot be read safely or at all; return the opset."""
    if not model.graph.node:
        raise ExportError("the model holds no nodes; is it an ONNX classifier?")
    if model.functions:
        names = ", ".join(sorted(f.name for f in model.functions)[:3])
        raise ExportError(
            f"the model holds local functions ({names}); inline them first: onnx.inliner.inline_local_functions"
        )
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset: int = opsets.get("", opsets.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"the model uses opset {opset}; {OLDEST_OPSET} or newer is needed: onnx.version_converter.convert_version"
        )
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ExportError(
                f"initializer {tensor.name!r} lies in an external file; save the model with its weights inside"
            )
    if model.graph.sparse_initializer:
        raise ExportError("the model holds sparse initializers; save it with dense ones")
    return opset


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield the tensors stored in a graph: initializers and attributes, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in subgraphs(node):
            yield from _tensors(body)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, and drop Identity and inference-mode Dropout."""
    names: dict[str, str] = {}
    keep = []
    outputs = {o.name for o in graph.output}
    read = {name for node in graph.node for name in reads(node)} | outputs
    for node in graph.node:
        _rename_reads(node, names)
        if node.op_type == "Dropout" and read.isdisjoint(node.output[1:]) and not _trains(node, graph):
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1], name=node.name))
        if node.op_type == "Constant":
            graph.initializer.append(_constant_value(node))
        elif node.op_type == "Identity" and node.output[0] not in outputs:
            names[node.output[0]] = node.input[0]
        else:
            keep.append(node)
    del graph.node[:]
    graph.node.extend(keep)


def _trains(dropout: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Tell whether a Dropout is in training mode, or may be: its third input says so."""
    mode = dropout.input[2] if len(dropout.input) > 2 else ""
    values = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == mode]
    return bool(mode) and not (values and not values[0].any())


def _rename_reads(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Rename the tensors that a node reads, those captured by its subgraphs included."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for subgraph in subgraphs(node):
        for inner in subgraph.node:
            _rename_reads(inner, names)
        for output in subgraph.output:
            output.name = names.get(output.name, output.name)


def _expand_functions(model: onnx.ModelProto, image: str, opset: int) -> bool:
    """Write operators without a rule out as the standard defines them, where it does: Attention, Shrink and others."""
    dependent = dependent_tensors(model.graph, {image})
    wanted = set()
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or dependent.isdisjoint(node.output):
            continue
        if not onnx.defs.has(node.op_type, opset):
            continue  # onnxruntime says what is wrong with it
        schema: Any = onnx.defs.get_schema(node.op_type, opset)  # its type stub lacks two properties
        kept = {*RULES, *NO_GRADIENT, *WHOLE_FUNCTIONS}
        if node.op_type in kept and not schema.deprecated:  # GroupNormalization of opset 18 to 20 is deprecated
            continue
        if schema.has_function or schema.has_context_dependent_function:
            wanted.add(("", node.op_type))
            given = {attribute.name for attribute in node.attribute}
            defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
            node.attribute.extend(value for name, value in defaults.items() if name not in given)
    if wanted:
        model.graph.value_info.extend(  # the inliner knows the types of initializers from here alone
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
        model.CopyFrom(inliner.inline_selected_functions(model, sorted(wanted), inline_schema_functions=True))
    return bool(wanted)


def _constant_value(node: onnx.NodeProto) -> TensorProto:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.asarray(value, np.float32), node.output[0])
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.asarray(value, np.int64), node.output[0])
    raise ExportError(
        f"node {node.name or node.output[0]!r}: Constant of {attribute.name} is not supported; use a tensor"
    )


def _image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    initializers = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    if len(inputs) != 1:
        found = ", ".join(repr(i.name) for i in inputs) or "none"
        raise ExportError(f"the model must have exactly one image input; it has {found}")
    image: onnx.ValueInfoProto = inputs[0]
    dims = image.type.tensor_type.shape.dim
    if image.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        raise ExportError(f"input {image.name!r} is not of a floating-point type; export the model with a float input")
    if len(dims) != 4 or not all(d.HasField("dim_value") and d.dim_value > 0 for d in dims[1:]):
        shape = _show(tuple(d.dim_value or None for d in dims))
        raise ExportError(
            f"input {image.name!r} has shape {shape}; [N, C, H, W] with fixed C, H and W is needed: give the input size"
        )
    if len(graph.output) < 1:
        raise ExportError("the model has no output")
    return image


def _inline_if(graph: onnx.GraphProto, constants: LazyConstants) -> bool:
    """Replace each ``If`` whose condition is known by the branch taken; tell whether there was one."""
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        condition = constants.get(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(node)
            continue
        changed = True
        branch = helper.get_node_attr_value(node, "then_branch" if bool(np.all(condition)) else "else_branch")
        _make_names_unique(branch, node.name or node.output[0])
        graph.initializer.extend(branch.initializer)
        nodes.extend(branch.node)
        nodes.extend(
            helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(branch.output, node.output, strict=True)
        )
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
        _constants_to_initializers(graph)
        for tensor in graph.initializer:
            constants.add(tensor)
    return changed


def _make_names_unique(branch: onnx.GraphProto, prefix: str) -> None:
    """Put ``prefix`` before the names that a branch defines: those of different branches may be the same."""
    defined = [tensor.name for tensor in branch.initializer] + [name for node in branch.node for name in node.output]
    names = {name: f"{prefix}/{name}" for name in defined if name}
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    for node in branch.node:
        _rename_reads(node, names)
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in branch.output:
        output.name = names.get(output.name, output.name)


def _replace_folded(graph: onnx.GraphProto, folded: dict[str, Array]) -> None:
    """Remove the nodes whose outputs are all folded, and store the values that somebody still reads."""
    kept = [node for node in graph.node if not all(name in folded for name in node.output if name)]
    read = {name for node in kept for name in reads(node)} | {output.name for output in graph.output}
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in folded.items() if name in read)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and initializers that no output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
            kept.append(node)
    tensors = [t for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)
    inputs = [i for i in graph.input if i.name not in {t.name for t in tensors}]
    del graph.input[:]
    graph.input.extend(inputs)


def _refuse_what_did_not_fold(graph: onnx.GraphProto, logits: str, image: str) -> None:
    """Raise ExportError for what the logits need and the walk cannot follow: control flow, sequences, training mode."""
    needed = {logits}
    found = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(reads(node))
        name = f"{node.op_type} {node.name or node.output[0]!r}"
        if node.op_type in CONTROL_FLOW | SEQUENCE_OPERATORS:
            found.append(f"{name} is control flow or a sequence that does not fold away")
        elif node.op_type in DATA_SHAPED:
            found.append(f"{name} gives a tensor whose shape depends on the image")
        elif node.op_type == "Dropout":
            found.append(f"{name} is in training mode")
    if image not in needed:
        raise ExportError(f"output {logits!r} does not depend on input {image!r}; the first output must be the logits")
    if found:
        raise ExportError(f"{'; '.join(reversed(found))}. Export the model in eval() and without these operators")


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("N" if d is None else str(d) for d in shape) + "]"
