"""What the rules about TensorRT look at: a graph with its types and constants, and one node of it at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
# Constants up to this many elements may decide shapes; larger ones are not copied for shape inference.
_SMALL = 1024


@dataclass(frozen=True)
class Refusal:
    """A violated rule: its short name, what is wrong and what to do, and whether it is an error or a note."""

    rule: str
    message: str
    severity: str = "error"


class Graph:
    """What the rules ask about the whole model: element types, ranks, constants, what is computed from constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.opset = opsets.get("", opsets.get("ai.onnx", 0))
        self.nodes = list(model.graph.node)
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.types: dict[str, str] = {t.name: type_name(t.data_type) for t in model.graph.initializer}
        self.ranks: dict[str, int] = {t.name: len(t.dims) for t in model.graph.initializer}
        bare = without_values(model)
        # where an operator is unknown to ONNX, what the model declares has to do
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            bare = onnx.shape_inference.infer_shapes(bare)
        for info in [*bare.graph.input, *bare.graph.value_info, *bare.graph.output]:
            self.types.setdefault(info.name, type_name(info.type.tensor_type.elem_type))
            if info.type.tensor_type.HasField("shape"):
                self.ranks.setdefault(info.name, len(info.type.tensor_type.shape.dim))
        self.inputs = {i.name for i in model.graph.input} - set(self.initializers)
        self.computed: set[str] = set()  # from constants alone
        for node in self.nodes:
            known = (name in self.initializers or name in self.computed for name in node.input if name)
            if node.op_type == "Constant" or (any(node.input) and all(known)):
                self.computed.update(name for name in node.output if name)

    def value(self, name: str) -> Array | None:
        """Return the value of an initializer, else None."""
        return numpy_helper.to_array(self.initializers[name]) if name in self.initializers else None

    def known(self, name: str) -> bool:
        """Tell whether a tensor is constant when the engine is built."""
        return name in self.initializers or name in self.computed


@dataclass(frozen=True)
class View:
    """One node of a graph under the eyes of one version; inputs are given by index."""

    graph: Graph
    node: onnx.NodeProto
    version: str

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes by name."""
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}

    def input(self, index: int) -> str:
        """Return an input's name, empty where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def value(self, index: int) -> Array | None:
        """Return the value of a stored input, else None."""
        return self.graph.value(self.input(index))

    def rank(self, index: int) -> int | None:
        """Return an input's number of axes, or None where it is not known."""
        return self.graph.ranks.get(self.input(index))

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


def older(version: str, other: str) -> bool:
    """Tell whether ``version`` comes before ``other``: 10.3 before 10.13."""
    first, second = ([int(part) for part in text.split(".")] for text in (version, other))
    return first < second


def type_name(kind: int) -> str:
    """Return an element type's name, empty for none."""
    return TensorProto.DataType.Name(kind).lower() if kind else ""


def without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph for shape inference, with large constants as inputs so that they are not copied."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return bare
