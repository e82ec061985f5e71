"""The walk: reverse-mode differentiation over the prepared graph, rules first, cross-cutting work once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import onnx

from edge_runtime.errors import UnsupportedOperatorError
from export.gradients.builder import Builder, Op, Phases, Shape
from export.gradients.prepare import Prepared
from export.gradients.registry import NO_GRADIENT, RULES, Rule

Rules = Mapping[str, Rule]


def backward(p: Prepared, b: Builder, seed: str, start: str, stop: str, rules: Rules = RULES) -> str:
    """Emit the gradient of sum(seed * start) with respect to tensor ``stop``; return its name.

    Raises :class:`~edge_runtime.errors.UnsupportedOperatorError`, naming all of them, if operators between ``stop`` and
    ``start`` have no rule.
    """
    path = _path(p.model.graph, start, stop)
    reached = {stop}.union(*(node.output for node in path))
    _check_rules(p, path, start, reached, rules)
    pending: dict[str, list[str | Phases]] = {start: [seed]}
    for node in reversed(path):
        arrived = [_accumulate(b, pending.pop(name)) if name in pending else None for name in node.output]
        if not any(arrived):
            continue
        b.scope = node.op_type
        op = Op(node, b, arrived)
        row = rules[node.op_type]
        result = row.function(op, arrived[0] or "")
        grads = [result] if result is None or isinstance(result, (str, Phases)) else list(result)
        for name, grad in zip(node.input, grads, strict=False):
            if name not in reached or grad is None:
                continue
            if row.broadcast and isinstance(grad, str):
                grad = unbroadcast(b, grad, b.shapes.get(grad, op.output_shape), p.shapes[name])
            pending.setdefault(name, []).append(grad)
    if stop not in pending:
        # the logits depend on `stop` through piecewise constant operators alone: the gradient is zero everywhere
        return b.emit("Mul", [stop, b.constant(0.0)])
    return _accumulate(b, pending[stop])


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
    """Return the nodes between ``stop`` and ``start``, in topological order."""
    reached = {stop}
    forward = []
    for node in graph.node:
        if node.op_type not in NO_GRADIENT and not reached.isdisjoint(node.input):
            reached.update(name for name in node.output if name)
            forward.append(node)
    needed = {start}
    path: deque[onnx.NodeProto] = deque()
    for node in reversed(forward):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            path.appendleft(node)
    return list(path)


def _check_rules(
    p: Prepared, path: Sequence[onnx.NodeProto], start: str, reached: set[str], rules: Rules
) -> None:
    """Collect every operator on the path that no rule covers, then raise once."""
    findings = []
    for position, node in enumerate(reversed(path), start=1):
        where = f"{node.op_type} {node.name or node.output[0]!r} ({position} of {len(path)} from {start!r})"
        extra = [name for name in node.output[1:] if name and name in _reads_on(path)]
        row = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if row is None:
            domain = f" of domain {node.domain!r}" if node.domain else ""
            findings.append(f"{where}{domain}: no gradient rule")
        elif extra and not row.all_outputs:
            findings.append(f"{where}: its output {extra[0]!r} has no gradient")
        elif row.constant_inputs:
            bad = [i for i in row.constant_inputs if i < len(node.input) and node.input[i] in reached]
            if bad:
                findings.append(f"{where}: its input {node.input[bad[0]]!r} depends on the image")
    if findings:
        raise UnsupportedOperatorError(
            f"{len(findings)} operator(s) without gradient at opset {p.opset}: "
            + "; ".join(findings)
            + ". Replace them in the model, or add a rule (CONTRIBUTING: add a gradient rule)"
        )


def _reads_on(path: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in path for name in node.input}
