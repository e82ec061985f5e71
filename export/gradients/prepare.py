"""Bringing an ONNX classifier into the form that the walk differentiates, and refusing what is none.

Shapes and constants are *observed*, not inferred: the model runs on onnxruntime at two batch sizes, every tensor that
does not depend on the image's values is recorded, and so is every tensor's shape. What is equal in both runs is
constant and becomes an initializer (this folds Shape arithmetic, ``If`` and ``Range`` of any exporter); what differs
follows the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ExportError
from export.gradients.builder import Array, Shape, keeps_batch

if TYPE_CHECKING:
    import onnxruntime

OLDEST_OPSET = 13
CONTROL_FLOW = {"If", "Loop", "Scan"}
SEQUENCE_OPERATORS = {
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip
# Constants above this size stay where the graph has them; smaller ones that the observation finds are folded.
MAX_FOLDED_BYTES = 1 << 20
# Weights above this size are not copied into the observation.
_SMALL_BYTES = 1 << 16
_BATCHES = (2, 3)


@dataclass
class Prepared:
    """A classifier in which every tensor's shape is known.

    ``image`` and ``logits`` name its input and its output; ``shapes`` maps every tensor to its shape, None marking a
    dimension that follows the batch; ``constants`` maps the tensors whose value is known (initializers and folded
    ones); ``batch`` is the batch's size or name; ``dependent`` holds the tensors that depend on the image's values, in topological order of ``model``.
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
    graph = fresh.graph
    image = _image_input(graph)
    batch = image.type.tensor_type.shape.dim[0]
    if not batch.dim_value and not batch.dim_param:
        batch.dim_param = "N"
    del graph.value_info[:]  # observed anew; the exporter's may name dimensions that fold
    _constants_to_initializers(graph)
    constants = _LazyConstants(graph.initializer)
    while True:
        shapes, folded = _observe(fresh, image, constants)
        constants.update(folded)
        _replace_folded(graph, folded)
        if not _inline_if(graph, constants):
            break
    _drop_unused(graph)
    _refuse_what_did_not_fold(graph)
    logits = graph.output[0].name
    if len(shapes[logits]) != 2:
        raise ExportError(
            f"output {logits!r} has shape {_show(shapes[logits])}; a classifier's logits are [N, K]: name or add such an"
            " output"
        )
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


def dependent_tensors(graph: onnx.GraphProto, sources: set[str]) -> set[str]:
    """Return the tensors whose values depend on those of ``sources``; shapes alone are no dependence."""
    dependent = set(sources)
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not dependent.isdisjoint(_reads(node)):
            dependent.update(name for name in node.output if name)
    return dependent


class _LazyConstants(dict[str, Array]):
    """Initializers by name, decoded when first asked for: weights are large and mostly not needed."""

    def __init__(self, tensors: Iterable[TensorProto]) -> None:
        super().__init__()
        self._tensors = {t.name: t for t in tensors}

    def add(self, tensor: TensorProto) -> None:
        """Know one more initializer."""
        self._tensors.setdefault(tensor.name, tensor)

    def __missing__(self, name: str) -> Array:
        self[name] = numpy_helper.to_array(self._tensors[name])
        return self[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._tensors

    def get(self, name: str, default: Array | None = None) -> Array | None:  # type: ignore[override]
        """Return the value of a constant, or ``default`` where ``name`` is none."""
        return self[name] if name in self else default


def _check(model: onnx.ModelProto) -> int:
    """Refuse what cannot be read safely or at all; return the opset."""
    if not model.graph.node:
        raise ExportError("the model holds no nodes; is it an ONNX classifier?")
    if model.functions:
        names = ", ".join(sorted(f.name for f in model.functions)[:3])
        raise ExportError(f"the model holds local functions ({names}); inline them first: onnx.inliner.inline_local_functions")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"the model uses opset {opset}; {OLDEST_OPSET} or newer is needed: onnx.version_converter.convert_version"
        )
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ExportError(f"initializer {tensor.name!r} lies in an external file; save the model with its weights inside")
    if model.graph.sparse_initializer:
        raise ExportError("the model holds sparse initializers; save it with dense ones")
    return opset


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, and drop Identity and inference-mode Dropout."""
    rename: dict[str, str] = {}
    keep = []
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
        if node.op_type == "Constant":
            graph.initializer.append(_constant_value(node))
        elif node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs and not any(node.output[1:]):
            rename[node.output[0]] = node.input[0]
        else:
            keep.append(node)
    if rename:
        for node in keep:
            node.input[:] = [rename.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(keep)


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
    raise ExportError(f"node {node.name or node.output[0]!r}: Constant of {attribute.name} is not supported; use a tensor")


def _image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    initializers = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initializers]
    if len(inputs) != 1:
        found = ", ".join(repr(i.name) for i in inputs) or "none"
        raise ExportError(f"the model must have exactly one image input; it has {found}")
    image = inputs[0]
    dims = image.type.tensor_type.shape.dim
    if image.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        raise ExportError(f"input {image.name!r} is not of a floating-point type; export the model with a float input")
    if len(dims) != 4 or not all(d.HasField("dim_value") and d.dim_value > 0 for d in dims[1:]):
        shape = _show(tuple(d.dim_value or None for d in dims))
        raise ExportError(f"input {image.name!r} has shape {shape}; [N, C, H, W] with fixed C, H and W is needed: give the input size")
    if len(graph.output) < 1:
        raise ExportError("the model has no output")
    return image


def _observe(
    model: onnx.ModelProto, image: onnx.ValueInfoProto, constants: _LazyConstants
) -> tuple[dict[str, Shape], dict[str, Array]]:
    """Run the model at two batch sizes; return every tensor's shape, and the values that no image can change.

    Large weights are replaced by zeros of their shape: they decide no shape, and copying them would take longer than
    all the rest. Nothing that depends on them is folded.
    """
    graph = model.graph
    large = {t.name for t in graph.initializer if int(np.prod(t.dims)) * 4 > _SMALL_BYTES}
    unknown = dependent_tensors(graph, {image.name} | large)
    computed = [name for node in graph.node for name in node.output if name]
    free = [name for name in computed if name not in unknown]
    fixed = image.type.tensor_type.shape.dim
    batches = (fixed[0].dim_value,) if fixed[0].dim_value else _BATCHES
    size = tuple(d.dim_value for d in fixed[1:])
    dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
    session = _probe_session(model, large, computed, free)
    runs = []
    for batch in batches:
        try:
            runs.append(session.run(None, {image.name: np.zeros((batch, *size), dtype)}))
        except Exception as error:  # onnxruntime raises its own types, all of them about the model
            raise ExportError(f"the model does not run on a batch of {batch} images: {_first_line(error)}") from error
    first, last = runs[0], runs[-1]
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    shapes[image.name] = (fixed[0].dim_value or None, *size)
    for name, a, b in zip(computed, first, last, strict=False):
        shapes[name] = tuple(int(i) if i == j else None for i, j in zip(a, b, strict=True))
    folded: dict[str, Array] = {}
    observed = dict(zip(free, zip(first[len(computed) :], last[len(computed) :], strict=True), strict=True))
    for name, (a, b) in observed.items():
        if isinstance(a, np.ndarray) and np.array_equal(a, b) and a.nbytes <= MAX_FOLDED_BYTES:
            folded[name] = a
    _fix_reshapes(graph, shapes, constants, observed)
    return shapes, folded


def _probe_session(
    model: onnx.ModelProto, large: set[str], computed: list[str], free: list[str]
) -> onnxruntime.InferenceSession:
    """Return a session of ``model`` whose outputs are the shapes of ``computed`` and the values of ``free``."""
    import onnxruntime

    zeros = []
    small = []
    for tensor in model.graph.initializer:
        if tensor.name in large:
            itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            value = helper.make_tensor("value", tensor.data_type, [1], bytes(itemsize), raw=True)
            small.append(numpy_helper.from_array(np.asarray(tensor.dims, np.int64), f"observed/shape of {tensor.name}"))
            zeros.append(helper.make_node("ConstantOfShape", [small[-1].name], [tensor.name], value=value))
        else:
            small.append(tensor)
    probes = [helper.make_node("Shape", [name], [f"observed/{i}"]) for i, name in enumerate(computed)]
    outputs = [helper.make_tensor_value_info(probe.output[0], TensorProto.INT64, None) for probe in probes]
    outputs += [onnx.ValueInfoProto(name=name) for name in free]
    graph = helper.make_graph([*zeros, *model.graph.node, *probes], "probe", model.graph.input, outputs, small)
    probe = helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 7))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not accept the model: {_first_line(error)}") from error


def _fix_reshapes(
    graph: onnx.GraphProto,
    shapes: dict[str, Shape],
    constants: _LazyConstants,
    observed: dict[str, tuple[Array, Array]],
) -> None:
    """Give each Reshape a constant shape vector where its output has one: 0 for a batch that stays, -1 for one that not."""
    for node in graph.node:
        target = shapes.get(node.output[0], ())
        if node.op_type != "Reshape" or not (node.input[1] in observed or node.input[1] in constants):
            continue
        sizes = [-1 if d is None else d for d in target]
        if sizes.count(-1) > 1 or 0 in sizes:
            continue
        if keeps_batch(shapes[node.input[0]], target):
            sizes[0] = 0
        name = f"reshape/{'x'.join(map(str, sizes))}"
        if name not in constants:
            constants[name] = np.asarray(sizes, np.int64)
            graph.initializer.append(numpy_helper.from_array(constants[name], name))
        node.input[1] = name
        del node.attribute[:]  # allowzero, which no size needs


def _inline_if(graph: onnx.GraphProto, constants: _LazyConstants) -> bool:
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


def _replace_folded(graph: onnx.GraphProto, folded: dict[str, Array]) -> None:
    """Remove the nodes whose outputs are all folded, and store the values that somebody still reads."""
    kept = [node for node in graph.node if not all(name in folded for name in node.output if name)]
    read = {name for node in kept for name in _reads(node)} | {output.name for output in graph.output}
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in folded.items() if name in read)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and initializers that no output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(_reads(node))
            kept.append(node)
    tensors = [t for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)
    inputs = [i for i in graph.input if i.name not in {t.name for t in tensors}]
    del graph.input[:]
    graph.input.extend(inputs)


def _refuse_what_did_not_fold(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in CONTROL_FLOW | SEQUENCE_OPERATORS:
            raise ExportError(
                f"node {node.name or node.output[0]!r} ({node.op_type}) depends on the image and does not fold away;"
                " export the model without control flow and sequences"
            )


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, those captured by its subgraphs included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for subgraph in [attribute.g, *attribute.graphs]:
            for inner in subgraph.node:
                names |= _reads(inner)
            names |= {output.name for output in subgraph.output}
    return names


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("N" if d is None else str(d) for d in shape) + "]"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
