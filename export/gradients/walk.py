"""The walk: reverse-mode differentiation over the prepared graph, rules first, cross-cutting work once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from edge_runtime.errors import UnsupportedOperatorError
from export.gradients.builder import Builder, Op, Phases, Shape, UnsupportedCaseError
from export.gradients.observe import dependent_tensors
from export.gradients.prepare import Prepared
from export.gradients.registry import NO_GRADIENT, RULES, Rule

Rules = Mapping[str, Rule]
FLOATING = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Stands for the gradient of a node that is not supported, while the walk looks for more of them.
UNKNOWN = "unknown"


def backward(p: Prepared, b: Builder, seed: str, start: str, stop: str, rules: Rules = RULES) -> str:
    """Emit the gradient of sum(seed * start) with respect to tensor ``stop``; return its name.

    Raises :class:`~edge_runtime.errors.UnsupportedOperatorError`, naming all of them, if operators between ``stop`` and
    ``start`` have no rule, and if the gradient is zero everywhere by construction.
    """
    path = _path(p.model.graph, start, stop)
    reached = {stop}.union(*(node.output for node in path))
    read = {name for node in path for name in node.input}
    pending: dict[str, list[str | Phases]] = {start: [seed]}
    findings = []
    for position, node in enumerate(reversed(path), start=1):
        arrived = [_accumulate(b, pending.pop(name)) if name in pending else None for name in node.output]
        if not any(arrived):
            continue
        b.scope = node.op_type
        try:
            grads = _apply(Op(node, b, arrived), arrived, reached, read, rules)
        except UnsupportedCaseError as reason:
            findings.append(f"{_name(node)} ({position} of {len(path)} from {start!r}): {reason}")
            grads = [UNKNOWN] * len(node.input)  # the walk goes on, to find all that is not supported
        for name, grad in zip(node.input, grads, strict=False):
            if name in reached and grad is not None:
                pending.setdefault(name, []).append(grad)
    if findings:
        raise UnsupportedOperatorError(
            f"{len(findings)} operator(s) without gradient at opset {p.opset}: "
            + "; ".join(findings)
            + ". Replace them in the model, or add a rule (CONTRIBUTING: add a gradient rule)"
        )
    if stop not in pending:
        raise UnsupportedOperatorError(_no_gradient_at_all(p.model.graph, start, stop))
    return _accumulate(b, pending[stop])


def _apply(
    op: Op, arrived: Sequence[str | None], reached: set[str], read: set[str], rules: Rules
) -> Sequence[str | Phases | None]:
    """Return the gradients of one node's inputs, each in its input's shape."""
    node, b = op.node, op.b
    row = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if row is None:
        raise UnsupportedCaseError("no gradient rule" + (f" for domain {node.domain!r}" if node.domain else ""))
    extra = [name for name in node.output[1:] if name and name in read]
    if extra and not row.all_outputs:
        raise UnsupportedCaseError(f"its output {extra[0]!r} has no gradient rule")
    varying = [node.input[i] for i in row.constant_inputs if i < len(node.input) and node.input[i] in reached]
    if varying:
        raise UnsupportedCaseError(
            f"its input {varying[0]!r} depends on the image, for which there is no gradient rule"
        )
    result = row.function(op, arrived[0] or "")
    grads = [result] if result is None or isinstance(result, (str, Phases)) else list(result)
    if not row.broadcast:
        return grads
    return [
        unbroadcast(b, grad, b.shapes.get(grad, op.output_shape), b.shapes[name])
        if isinstance(grad, str) and name in reached
        else grad
        for name, grad in zip(node.input, grads, strict=False)
    ]


def unbroadcast(b: Builder, grad: str, shape: Shape, target: Shape) -> str:
    """Sum ``grad`` of ``shape`` over the axes along which an input of shape ``target`` was repeated."""
    extra = len(shape) - len(target)
    if extra:
        grad = b.reduce("ReduceSum", grad, list(range(extra)), keepdims=False)
    repeated = [i for i, (d, t) in enumerate(zip(shape[extra:], target, strict=True)) if t == 1 and d != 1]
    return b.reduce("ReduceSum", grad, repeated)


def _accumulate(b: Builder, contributions: Sequence[str | Phases]) -> str:
    """Add the gradients that reach one tensor; those on the same strided grid are added before they interleave."""
    phased: dict[tuple[int, int], list[Phases]] = {}
    full: list[str] = []
    for item in contributions:
        if isinstance(item, str):
            full.append(item)
        else:
            phased.setdefault(item.stride, []).append(item)
    for group in phased.values():
        parts: dict[tuple[int, int], list[str]] = {}
        for item in group:
            for key, name in item.parts.items():
                parts.setdefault(key, []).append(name)
        summed = {key: b.sum(names) for key, names in parts.items()}
        full.append(b.interleave(Phases(group[0].stride, group[0].shape, summed)))
    return b.sum(full)


def _path(graph: onnx.GraphProto, start: str, stop: str) -> list[onnx.NodeProto]:
    """Return the nodes between ``stop`` and ``start`` that a gradient can pass, in topological order."""
    reached = {stop}
    forward = []
    for node in graph.node:
        if _passes_gradient(node) and not reached.isdisjoint(node.input):
            reached.update(name for name in node.output if name)
            forward.append(node)
    needed = {start}
    path: deque[onnx.NodeProto] = deque()
    for node in reversed(forward):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            path.appendleft(node)
    return list(path)


def _passes_gradient(node: onnx.NodeProto) -> bool:
    """Tell whether a node's output varies continuously with its inputs; a cast to integers or booleans does not."""
    if node.op_type == "Cast":
        return helper.get_node_attr_value(node, "to") in FLOATING
    return node.op_type not in NO_GRADIENT


def _no_gradient_at_all(graph: onnx.GraphProto, start: str, stop: str) -> str:
    """Say why no gradient of ``start`` reaches ``stop``."""
    behind = dependent_tensors(graph, {stop})
    stopped = [_name(n) for n in graph.node if not _passes_gradient(n) and not behind.isdisjoint(n.input)]
    if not stopped or start not in behind:
        return f"{start!r} does not depend on {stop!r}; is it the classifier's output?"
    return (
        f"the gradient of {start!r} with respect to {stop!r} is zero everywhere: between them lie only operators whose"
        f" output is piecewise constant ({', '.join(stopped[:3])}); export the model with floating-point operators or"
        " QuantizeLinear and DequantizeLinear pairs"
    )


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"
