"""Observing a model: its tensors' shapes, and the values that no image can change, from running it on onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edge_runtime.errors import ExportError
from export.gradients.builder import Array, Shape, keeps_batch

if TYPE_CHECKING:
    import onnxruntime

# Constants above this size stay where the graph has them; smaller ones that the observation finds are folded.
MAX_FOLDED_BYTES = 1 << 20
# Weights above this size are not copied into the observation.
_SMALL_BYTES = 1 << 16
_BATCHES = (2, 3)
# A sequence has no shape; one that does not depend on the image may still fold away.
_MAKES_SEQUENCES = {
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence",
    "Optional",
}  # fmt: skip


class LazyConstants(dict[str, Array]):
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
        return self[name] if name in self else default  # noqa: SIM401  (this is what get is made of)


def dependent_tensors(graph: onnx.GraphProto, sources: set[str]) -> set[str]:
    """Return the tensors whose values depend on those of ``sources``; shapes alone are no dependence."""
    dependent = set(sources)
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not dependent.isdisjoint(reads(node)):
            dependent.update(name for name in node.output if name)
    return dependent


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, those captured by its subgraphs included."""
    names = {name for name in node.input if name}
    for subgraph in subgraphs(node):
        for inner in subgraph.node:
            names |= reads(inner)
        names |= {output.name for output in subgraph.output}
    return names


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the bodies of a control-flow node."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*bodies, *(body for attribute in node.attribute for body in attribute.graphs)]


def observe(
    model: onnx.ModelProto, image: onnx.ValueInfoProto, constants: LazyConstants
) -> tuple[dict[str, Shape], dict[str, Array]]:
    """Run the model at two batch sizes; return every tensor's shape, and the values that no image can change.

    Large weights are replaced by zeros of their shape: they decide no shape, and copying them would take longer than
    all the rest. Nothing that depends on them is folded. Reshapes to a shape that is known get it as a constant.
    Raises :class:`~edge_runtime.errors.ExportError` where the model does not run.
    """
    graph = model.graph
    large = {t.name for t in graph.initializer if int(np.prod(t.dims)) * 4 > _SMALL_BYTES}
    # dequantised weights stay as they are: engines recognise the pair and run the layer in integers
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    unknown = dependent_tensors(graph, {image.name} | large | dequantised)
    named = [(node, name) for node in graph.node for name in node.output if name]
    computed = [name for node, name in named if node.op_type not in _MAKES_SEQUENCES]
    free = [name for _, name in named if name not in unknown]
    fixed = image.type.tensor_type.shape.dim
    batches = (fixed[0].dim_value,) if fixed[0].dim_value else _BATCHES
    size = tuple(d.dim_value for d in fixed[1:])
    probe = _probe(model, large, computed, free)
    if image.type.tensor_type.elem_type == TensorProto.DOUBLE:
        _run_in_float32(probe, image.name, unknown)
    dtype = helper.tensor_dtype_to_np_dtype(probe.graph.input[0].type.tensor_type.elem_type)
    session = _session(probe)
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
    lengths = {name: (a[0], b[0]) for name, a, b in zip(computed, first, last, strict=False) if len(a) == 1}
    _views_to_reshapes(graph, lengths, observed)
    _fix_reshapes(graph, shapes, constants, observed)
    return shapes, folded


def _probe(model: onnx.ModelProto, large: set[str], computed: list[str], free: list[str]) -> onnx.ModelProto:
    """Return the model with other outputs: the shapes of ``computed`` and the values of ``free``."""
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
    # a quantised tensor has the shape of its input; onnxruntime has no Shape of four-bit integers
    alike = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    probes = [helper.make_node("Shape", [alike.get(name, name)], [f"observed/{i}"]) for i, name in enumerate(computed)]
    outputs = [helper.make_tensor_value_info(probe.output[0], TensorProto.INT64, None) for probe in probes]
    outputs += [onnx.ValueInfoProto(name=name) for name in free]
    graph = helper.make_graph([*zeros, *model.graph.node, *probes], "probe", model.graph.input, outputs, small)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 7))


def _session(probe: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not accept the model: {_first_line(error)}") from error


def _run_in_float32(probe: onnx.ModelProto, image: str, unknown: set[str]) -> None:
    """Let the nodes behind the image or a large weight run in float32.

    onnxruntime's CPU provider has no convolution in double, and of these nodes only the shapes are observed. What does
    not depend on the image stays double, so that the values that fold keep their precision.
    """
    graph = probe.graph
    inferred = shape_inference.infer_shapes(probe).graph
    doubles = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.DOUBLE}
    doubles |= {t.name for t in graph.initializer if t.data_type == TensorProto.DOUBLE}
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = []
    narrowed: dict[str, str] = {}

    def narrow(name: str) -> str:
        if name not in doubles or name in unknown:
            return name
        if name not in narrowed:
            narrowed[name] = f"observed/{name} in float32"
            nodes.append(helper.make_node("Cast", [name], [narrowed[name]], to=TensorProto.FLOAT))
        return narrowed[name]

    for node in graph.node:
        if not unknown.isdisjoint(node.output):
            _narrow_node(node, narrow)
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _narrow_node(node: onnx.NodeProto, narrow: Callable[[str], str]) -> None:
    """Turn double into float32 in a node and in its subgraphs; ``narrow`` gives the names of its inputs."""
    node.input[:] = [narrow(name) for name in node.input]
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
            attribute.i = TensorProto.FLOAT
        if attribute.name == "value" and attribute.t.data_type == TensorProto.DOUBLE:
            narrowed = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(narrowed))
    for body in subgraphs(node):
        for inner in body.node:
            _narrow_node(inner, narrow)
        for tensor in body.initializer:
            if tensor.data_type == TensorProto.DOUBLE:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        for output in body.output:
            if output.type.tensor_type.elem_type == TensorProto.DOUBLE:
                output.type.tensor_type.elem_type = TensorProto.FLOAT


def _views_to_reshapes(
    graph: onnx.GraphProto, lengths: dict[str, tuple[int, int]], observed: dict[str, tuple[Array, Array]]
) -> None:
    """Turn a Gather that picks every element of a vector in its order into a Reshape to the indices' shape.

    That is what PyTorch's exporter makes of as_strided, behind global pooling of channels-last tensors.
    """
    for node in graph.node:
        indices = observed.get(node.input[1]) if node.op_type == "Gather" else None
        if indices is None or node.input[0] not in lengths:
            continue
        if all(
            np.array_equal(i.reshape(-1), np.arange(n)) for i, n in zip(indices, lengths[node.input[0]], strict=True)
        ):
            node.op_type = "Reshape"
            del node.attribute[:]


def _fix_reshapes(
    graph: onnx.GraphProto,
    shapes: dict[str, Shape],
    constants: LazyConstants,
    observed: dict[str, tuple[Array, Array]],
) -> None:
    """Give each Reshape a constant shape where its output has one: 0 for a batch that stays, else -1 for it."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
