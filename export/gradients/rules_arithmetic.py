"""Gradient rules of broadcasting arithmetic, selection, and matrix products."""

from __future__ import annotations

import string

import numpy as np

from export.gradients.builder import Op, UnsupportedCaseError, blocked
from export.gradients.registry import rule
from export.gradients.walk import unbroadcast


@rule("Add", broadcast=True)
def add(op: Op, g: str) -> list[str]:
    """(g, g)."""
    return [g, g]


@rule("Sub", broadcast=True)
def sub(op: Op, g: str) -> list[str]:
    """(g, -g)."""
    return [g, op.neg(g)]


@rule("Mul", broadcast=True)
def mul(op: Op, g: str) -> list[str]:
    """(g * b, g * a)."""
    a, b = op.inputs
    shape = op.output_shape
    for gate, index in ((b, 1), (a, 0)):
        if blocked(shape) and op.shape(index) == (*shape[:2], 1, 1) != shape and op.shape(1 - index) == shape:
            # squeeze-and-excitation: both products stay in the layout of the feature map
            kept = op.mul(g, op.b.repeat(gate, shape))
            gated = op.b.spatial_sum(op.mul(g, op.inputs[1 - index]), shape)
            return [kept, gated] if index == 1 else [gated, kept]
    return [op.mul(g, b), op.mul(g, a)]


@rule("Div", broadcast=True)
def div(op: Op, g: str) -> list[str]:
    """(g / b, -g * y / b)."""
    over = op.div(g, op.inputs[1])
    return [over, op.neg(op.mul(over, op.output))]


@rule("Pow", broadcast=True)
def power(op: Op, g: str) -> list[str | None]:
    """(g * n * x^(n - 1), g * y * log x)."""
    x, n = op.inputs
    exponent = op.constant(1)
    if exponent is not None and np.all(exponent == 2):
        return [op.mul(g, op.mul(x, 2.0)), None]
    n = op.b.emit("CastLike", [n, x]) if op.b.opset >= 15 else op.b.cast(n, op.b.dtype)
    left = op.mul(g, op.mul(n, op.b.emit("Pow", [x, op.sub(n, 1.0)])))
    return [left, op.mul(g, op.mul(op.output, op.unary("Log", x)))]


@rule("Sum", broadcast=True)
def sum_all(op: Op, g: str) -> list[str]:
    """g for every term."""
    return [g] * len(op.inputs)


@rule("Mean", broadcast=True)
def mean_all(op: Op, g: str) -> list[str]:
    """g / n for every term."""
    return [op.div(g, float(len(op.inputs)))] * len(op.inputs)


@rule("Max", "Min", broadcast=True)
def extremum(op: Op, g: str) -> list[str]:
    """g to the terms that equal the result, shared equally on a tie, as in PyTorch."""
    wins = [op.b.cast(op.b.emit("Equal", [name, op.output]), op.b.dtype) for name in op.inputs]
    share = op.div(g, op.b.sum(wins))
    return [op.mul(share, win) for win in wins]


@rule("Where", broadcast=True, constant_inputs=())
def where(op: Op, g: str) -> list[str | None]:
    """(none, g where the condition holds, g elsewhere)."""
    condition = op.inputs[0]
    return [None, op.where(condition, g, 0.0), op.where(condition, 0.0, g)]


@rule("MatMul")
def matmul(op: Op, g: str) -> list[str | None]:
    """(g B^T, A^T g), summed over the batch dimensions that were repeated."""
    a, b = op.inputs
    rank_a, rank_b = len(op.shape(0)), len(op.shape(1))
    if rank_a == 1 or rank_b == 1:
        return _vector_matmul(op, g, rank_a, rank_b)
    left = op.b.emit("MatMul", [g, op.b.transpose(b, _swap_last(rank_b))])
    right = op.b.emit("MatMul", [op.b.transpose(a, _swap_last(rank_a)), g])
    return [_sum_batch(op, left, 0), _sum_batch(op, right, 1)]


def _swap_last(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _sum_batch(op: Op, grad: str, index: int) -> str:
    """Sum a product's gradient over the leading dimensions along which input ``index`` was repeated."""
    target = op.shape(index)
    batch = op.output_shape[:-2]
    return unbroadcast(op.b, grad, (*batch, *target[-2:]), target)


def _vector_matmul(op: Op, g: str, rank_a: int, rank_b: int) -> list[str | None]:
    """Lift vectors to matrices, differentiate, and drop the axes again."""
    if rank_b == 1 and rank_a == 1:
        raise UnsupportedCaseError("it multiplies two vectors, which leaves no batch; keep the images of a batch apart")
    if rank_a == 1:  # without a batch axis the vector is a constant
        row = op.b.emit("Unsqueeze", [g, op.b.ints([-2])])
        return [None, op.mul(op.b.emit("Unsqueeze", [op.inputs[0], op.b.ints([1])]), row)]
    column = op.b.emit("Unsqueeze", [g, op.b.ints([-1])])
    row = op.b.emit("Unsqueeze", [op.inputs[1], op.b.ints([0])])
    left = op.b.emit("MatMul", [column, row])
    right = op.mul(op.inputs[0], column)
    return [left, op.b.reduce("ReduceSum", right, list(range(rank_a - 1)), keepdims=False)]


@rule("Gemm")
def gemm(op: Op, g: str) -> list[str]:
    """alpha * g B^T and alpha * A^T g, transposed as the node transposes; beta * g for C."""
    a, b = op.inputs[:2]
    alpha, beta = float(op.attr("alpha", 1.0)), float(op.attr("beta", 1.0))
    ta, tb = int(op.attr("transA", 0)), int(op.attr("transB", 0))
    if ta:
        left = op.b.emit("Gemm", [b, g], alpha=alpha, transA=tb, transB=1)
    else:
        left = op.b.emit("Gemm", [g, b], alpha=alpha, transB=1 - tb)
    if tb:
        right = op.b.emit("Gemm", [g, a], alpha=alpha, transA=1, transB=ta)
    else:
        right = op.b.emit("Gemm", [a, g], alpha=alpha, transA=1 - ta)
    if not op.has(2):
        return [left, right]
    scaled = g if beta == 1.0 else op.mul(g, beta)
    return [left, right, unbroadcast(op.b, scaled, op.output_shape, op.shape(2))]


@rule("Einsum")
def einsum(op: Op, g: str) -> list[str]:
    """For each factor, the einsum of g with the other factors; indices that only this factor has are repeated."""
    factors, result = _explicit(op.attr("equation"), [len(op.shape(i)) for i in range(len(op.inputs))])
    if any(len(set(f)) != len(f) for f in factors):
        raise UnsupportedCaseError(f"equation {op.attr('equation')!r} takes a diagonal, which has no gradient rule")
    return [_einsum_factor(op, g, factors, result, index) for index in range(len(factors))]


def _explicit(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the indices of each factor and of the result, with letters for ellipses and for an implicit result."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    factors = terms.split(",")
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = max(rank - len(f) + 3 if "..." in f else 0 for f, rank in zip(factors, ranks, strict=True))
    batch = "".join(unused[:hidden])  # an ellipsis of fewer axes stands for the last of them
    if not arrow:
        letters = terms.replace("...", "").replace(",", "")
        result = ("..." if hidden else "") + "".join(sorted(x for x in letters if letters.count(x) == 1))
    lengths = [rank - len(f) + 3 for f, rank in zip(factors, ranks, strict=True)]
    expanded = [f.replace("...", batch[hidden - n :]) for f, n in zip(factors, lengths, strict=True)]
    return expanded, result.replace("...", batch)


def _einsum_factor(op: Op, g: str, factors: list[str], result: str, index: int) -> str:
    others = [(f, name) for i, (f, name) in enumerate(zip(factors, op.inputs, strict=True)) if i != index]
    available = set(result).union(*(set(f) for f, _ in others))
    kept = "".join(letter for letter in factors[index] if letter in available)
    grad = op.b.emit(
        "Einsum", [g, *(n for _, n in others)], equation=",".join([result, *(f for f, _ in others)]) + "->" + kept
    )
    if kept == factors[index]:
        return grad
    lost = [i for i, letter in enumerate(factors[index]) if letter not in available]
    grad = op.b.emit("Unsqueeze", [grad, op.b.ints(lost)])
    return op.b.emit("Expand", [grad, op.b.ints([d if i in lost and d else 1 for i, d in enumerate(op.shape(index))])])
