"""A small interpreter of ONNX graphs in double precision, the judge of the gradient rules.

Every floating-point tensor is float64, whatever type the model says; one small function per operator, on torch, in the
two modules imported here. It shares no code with the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper, numpy_helper

from tests.export.gradients import double_layers  # noqa: F401  (fills the table)
from tests.export.gradients.double_basic import FUNCTIONS, Node, Tensor, widened


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Any], *wanted: str) -> dict[str, Tensor]:
    """Run ``model`` in double precision; return its outputs, or the tensors named ``wanted``."""
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    names = wanted or tuple(output.name for output in graph.output)
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    values = {tensor.name: widened(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    values.update({name: widened(value) for name, value in feeds.items()})
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    for index, node in enumerate(graph.node):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        context = Node(node.op_type, attributes, opset, len(node.output), [kinds.get(name) for name in node.input])
        results = FUNCTIONS[node.op_type](context, *(values[name] if name else None for name in node.input))
        results = results if isinstance(results, (tuple, list)) else (results,)
        values.update({name: value for name, value in zip(node.output, results, strict=False) if name})
        for name in set(node.input):
            if last_use[name] == index and name not in names:
                values.pop(name, None)
    return {name: values[name] for name in names}
