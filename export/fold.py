"""Compute what a graph computes from constants alone, once, and store the results.

Gradient graphs turn kernels around by nodes, so that weights are stored once; onnxruntime folds these nodes when it
opens a session. This does the same to the file, for engines that want stored kernels.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.session import cpu_session


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with every tensor that depends on no input stored as an initializer.

    The argument is not changed. The file grows by what is stored now and was computed before.
    """
    known = {tensor.name for tensor in model.graph.initializer}
    computing: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    for node in model.graph.node:
        constant = node.op_type == "Constant" or (any(node.input) and known.issuperset(filter(None, node.input)))
        (computing if constant else rest).append(node)
        if constant:
            known.update(node.output)
    read = {name for node in rest for name in node.input} | {output.name for output in model.graph.output}
    computed = [name for node in computing for name in node.output if name in read]
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    folded.graph.node.extend(rest)
    folded.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    if computed:
        values = _evaluate(model, computing, computed)
        folded.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, computed, strict=True))
    return folded


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> list[npt.NDArray[Any]]:
    """Return the values of tensors ``names``, computed by onnxruntime."""
    needed = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    values: list[npt.NDArray[Any]] = cpu_session(part).run(names, {})
    return values
