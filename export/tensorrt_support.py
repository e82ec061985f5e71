"""What TensorRT's ONNX parser takes, as tables with versions; :func:`check` holds a graph to them.

Sources: the operator support matrices and the static checkers of onnx-tensorrt 10.6 (docs/operators.md at 0137504) and
10.15 (fa5aa9f), its change log from 9.0 to 10.6, and FACTS of this project for the versions that JetPack ships. Where a
version between two documented ones is meant, the older document holds; 11.x removed builder flags and weak typing, not
operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edge_runtime.errors import unknown
from export.tensorrt_conditions import CONDITIONS
from export.tensorrt_graph import Graph, Refusal, View, older

# JetPack's versions (6.1, 7.0, 7.2, 7.2.2) and the newest opset that each parses.
NEWEST_OPSET: dict[str, int] = {"10.3": 20, "10.13": 22, "10.16": 24, "11.4": 24}
OLDEST_OPSET = 9
MAX_RANK = 8

FLOATS = frozenset({"float", "float16", "bfloat16"})
NUMBERS = FLOATS | {"int32", "int64"}
EVERYTHING = NUMBERS | {"bool"}
# Element types of quantised tensors; a zero point gives the type.
QUANTISED = frozenset({"int8", "int4", "float8e4m3fn", "float4e2m1"})


def _each(names: str, types: frozenset[str]) -> dict[str, frozenset[str]]:
    return dict.fromkeys(names.split(), types)


# Operator -> element types of its data. An operator in no table is not supported.
TYPES: dict[str, frozenset[str]] = {
    **_each("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Reciprocal Sin Sinh Sqrt Tan Tanh", FLOATS),
    **_each("Ceil Clip Floor IsInf Round", FLOATS),
    **_each("Celu Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish PRelu Selu Sigmoid Softmax", FLOATS),
    **_each("Softplus Softsign ThresholdedRelu", FLOATS),
    **_each("BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization", FLOATS),
    **_each("LpNormalization MeanVarianceNormalization RMSNormalization", FLOATS),
    **_each("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool Resize", FLOATS),
    **_each("Conv ConvTranspose CumSum Dropout Einsum Gemm MatMul QuantizeLinear STFT", FLOATS),
    **_each("Abs Add Div Max Mean Min Mod Mul Neg Pow Relu Shrink Sign Sub Sum", NUMBERS),
    **_each("ArgMax ArgMin Equal Greater GreaterOrEqual IsNaN Less LessOrEqual TopK", NUMBERS),
    **_each("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd", NUMBERS),
    **_each("ReduceSum ReduceSumSquare", NUMBERS),
    **_each("DepthToSpace Pad Range ScatterElements ScatterND SpaceToDepth", NUMBERS),
    **_each("Cast CastLike Constant ConstantOfShape EyeLike Identity OneHot Shape Size", EVERYTHING),
    **_each("Concat Expand Flatten Gather GatherElements GatherND Reshape ReverseSequence Slice Split", EVERYTHING),
    **_each("Squeeze Tile Transpose Trilu Unsqueeze Where", EVERYTHING),
    **_each("If Loop Scan", EVERYTHING),
    **_each("And Not Or Xor", frozenset({"bool"})),
    **_each("NonMaxSuppression NonZero RoiAlign", frozenset({"float", "float16"})),
    **_each("DequantizeLinear", QUANTISED),
}

# First version that has an operator or a type, where it is not the oldest one here.
SINCE: dict[str, str] = {"RMSNormalization": "10.16", "STFT": "10.13"}
SINCE_WITH_INTEGERS: dict[str, str] = {"Pow": "10.16"}

# Operators that no version takes, with the way out.
UNSUPPORTED: dict[str, str] = {
    "AffineGrid": "compute the grid at export",
    "Bernoulli": "draw outside the graph and feed the result",
    "CenterCropPad": "use Slice and Pad",
    "Col2Im": "use ConvTranspose, or DepthToSpace for blocks",
    "Compress": "use Where, or Gather with constant indices",
    "ConvInteger": "use QuantizeLinear and DequantizeLinear around Conv",
    "DynamicQuantizeLinear": "use QuantizeLinear with a constant scale",
    "MatMulInteger": "use QuantizeLinear and DequantizeLinear around MatMul",
    "MaxRoiPool": "use RoiAlign",
    "MaxUnpool": "use masks made from the pooled and the pooling tensor",
    "Multinomial": "draw outside the graph and feed the result",
    "QLinearConv": "use QuantizeLinear and DequantizeLinear around Conv",
    "QLinearMatMul": "use QuantizeLinear and DequantizeLinear around MatMul",
    "RandomNormal": "its seed is ignored: draw outside the graph and feed the result",
    "RandomNormalLike": "its seed is ignored: draw outside the graph and feed the result",
    "RandomUniform": "its seed is ignored: draw outside the graph and feed the result",
    "RandomUniformLike": "its seed is ignored: draw outside the graph and feed the result",
    "Swish": "write Sigmoid and Mul",
    "Unique": "it has no fixed output size; compute it outside the graph",
}


@dataclass(frozen=True)
class Finding:
    """One thing that a version of TensorRT does not take (error), or that needs care (note).

    ``node`` is the node's name (its first output where it has none), empty for the model as a whole; ``rule`` a short
    stable name of the violated row; ``message`` says what and what to do.
    """

    node: str
    operator: str
    rule: str
    message: str
    version: str
    severity: str

    def __str__(self) -> str:
        where = f"{self.operator} {self.node!r}: " if self.node else ""
        return f"TensorRT {self.version}: {self.severity}: {where}{self.message} [{self.rule}]"


def check(model: onnx.ModelProto, version: str | None = None) -> list[Finding]:
    """Return what TensorRT ``version`` (all of NEWEST_OPSET's where None) would object to in ``model``.

    An empty list, or one of notes, means that every node is in the supported set. Raises InputError for a version that
    the tables do not know.
    """
    if version is not None and version not in NEWEST_OPSET:
        raise unknown("TensorRT version", version, NEWEST_OPSET)
    graph = Graph(model)
    findings = []
    for each in NEWEST_OPSET if version is None else [version]:
        for node, refusal in _refusals(graph, each):
            name = "" if node is None else node.name or node.output[0]
            operator = "" if node is None else node.op_type
            findings.append(Finding(name, operator, refusal.rule, refusal.message, each, refusal.severity))
    return findings


def errors(findings: list[Finding]) -> list[Finding]:
    """Return the findings that keep a graph from being parsed or from giving the right result."""
    return [finding for finding in findings if finding.severity == "error"]


def _refusals(graph: Graph, version: str) -> Iterator[tuple[onnx.NodeProto | None, Refusal]]:
    """Yield what ``version`` refuses, node by node, and then about the constants."""
    if not OLDEST_OPSET <= graph.opset <= NEWEST_OPSET[version]:
        limits = f"{OLDEST_OPSET} to {NEWEST_OPSET[version]}"
        yield None, Refusal("opset", f"opset {graph.opset} is outside {limits}; convert the model")
    for node in graph.nodes:
        for refusal in _node_refusals(graph, node, version):
            yield node, refusal
    for name, tensor in graph.initializers.items():
        if tensor.data_type == TensorProto.DOUBLE:
            yield None, Refusal("double", f"constant {name!r} is double and is cast to float; store it as float")
    if huge := _beyond_half(graph):
        yield (
            None,
            Refusal(
                "exact-float32",
                f"{len(huge)} constants such as {huge[0]!r} do not fit float16, and the masks made with them need exact"
                " float32: build without FP16 and with TF32 cleared",
                severity="note",
            ),
        )


def _node_refusals(graph: Graph, node: onnx.NodeProto, version: str) -> Iterator[Refusal]:
    operator = node.op_type
    if node.domain not in ("", "ai.onnx"):
        yield Refusal("domain", f"domain {node.domain!r} needs a plugin; write it with standard operators")
        return
    if operator not in TYPES:
        way_out = UNSUPPORTED.get(operator, "write it with supported operators")
        yield Refusal("operator", f"not supported; {way_out}")
        return
    if older(version, SINCE.get(operator, version)):
        yield Refusal("since", f"supported from {SINCE[operator]} on; write it with older operators")
    yield from _type_refusals(graph, node, version)
    ranks = [graph.ranks[name] for name in [*node.input, *node.output] if name in graph.ranks]
    if ranks and max(ranks) > MAX_RANK:
        yield Refusal("rank", f"a tensor has {max(ranks)} axes, at most {MAX_RANK} are possible; merge some by Reshape")
    view = View(graph, node, version)
    for condition in CONDITIONS.get(operator, ()):
        refusal = condition(view)
        if refusal is not None:
            yield refusal


# Inputs that hold data of the operator's type, where it is not the first alone.
_DATA_INPUTS: Mapping[str, tuple[int, ...]] = {"Where": (1, 2), "OneHot": (2,), "Equal": (0, 1), "Pow": (0,)}


def _type_refusals(graph: Graph, node: onnx.NodeProto, version: str) -> Iterator[Refusal]:
    allowed = TYPES[node.op_type]
    if node.op_type in SINCE_WITH_INTEGERS and older(version, SINCE_WITH_INTEGERS[node.op_type]):
        allowed = allowed & FLOATS
    for index in _DATA_INPUTS.get(node.op_type, (0,)):
        kind = graph.types.get(node.input[index]) if index < len(node.input) else None
        if kind and kind not in allowed and not _network_bytes(graph, node, kind):
            yield Refusal("type", f"input {node.input[index]!r} is {kind}; it takes {', '.join(sorted(allowed))}")


def _network_bytes(graph: Graph, node: onnx.NodeProto, kind: str) -> bool:
    """Tell whether this is the one use of uint8: a network input that is cast."""
    return kind == "uint8" and node.op_type == "Cast" and node.input[0] in graph.inputs


def _beyond_half(graph: Graph) -> list[str]:
    """Return the constants, and the nodes with attributes, whose values float16 cannot hold."""
    limit = float(np.finfo(np.float16).max)
    found = []
    for name, tensor in graph.initializers.items():
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if array.size and not -limit <= float(array.min()) <= float(array.max()) <= limit:
                found.append(name)
    for node in graph.nodes:
        if any(a.type == onnx.AttributeProto.FLOAT and abs(a.f) > limit for a in node.attribute):
            found.append(node.name or node.output[0])
    return found
