"""Gradient rules of operators that select elements by index, without scatter: engines do not all have it.

Where the indices are known, a selection is a product with a 0/1 matrix, and its gradient one with the transpose; where
they depend on the image, they are compared with the positions of the axis.
"""

from __future__ import annotations

import numpy as np

from export.gradients.builder import Array, Op, Shape, UnsupportedCaseError, static
from export.gradients.registry import rule
from export.gradients.rules_shape import along_axis, constant


@rule("Gather", constant_inputs=(1,))
def gather(op: Op, g: str) -> str:
    """g times the 0/1 matrix of the selection, so that repeated indices add up; one index is a pad."""
    shape = op.shape()
    axis = int(op.attr("axis", 0)) % len(shape)
    size = static(shape[axis])
    indices = constant(op, 1).reshape(-1) % size
    flat = op.b.reshape(g, _with(shape, axis, indices.size), like=op.output)
    if indices.size == 1:
        before = [int(indices[0]) * (i == axis) for i in range(len(shape))]
        after = [(size - 1 - int(indices[0])) * (i == axis) for i in range(len(shape))]
        return op.b.pad(flat, before, after)
    return along_axis(op, flat, axis, _selection(indices, size), len(shape))


def _with(shape: Shape, axis: int, size: int) -> list[int | None]:
    return [size if i == axis else d for i, d in enumerate(shape)]


def _selection(rows: Array, size: int) -> Array:
    """Return the matrix [len(rows), size] with a 1 where row i selects element rows[i]."""
    matrix = np.zeros((len(rows), size))
    matrix[np.arange(len(rows)), rows] = 1.0
    return matrix


@rule("GatherND", constant_inputs=(1,))
def gather_nd(op: Op, g: str) -> str:
    """g times the 0/1 matrix of the selection, over the leading axes that the indices run through."""
    leading, rows = _leading(op, op.shape(), int(op.attr("batch_dims", 0)))
    flat = op.b.reshape(g, [len(rows), None])
    spread = op.b.emit("MatMul", [op.b.constant(_selection(rows, leading).T), flat])
    return op.b.reshape(spread, op.shape(), like=op.inputs[0])


@rule("ScatterND", constant_inputs=(1,))
def scatter_nd(op: Op, g: str) -> list[str | None]:
    """(g with zeros where it was overwritten, none, g at the positions that were written)."""
    reduction = op.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedCaseError(f"reduction {reduction!r} has no gradient rule; use none or add")
    shape = op.shape()
    leading, rows = _leading(op, shape, 0)
    flat = op.b.reshape(g, [leading, None])
    written = op.b.emit("MatMul", [op.b.constant(_selection(rows, leading)), flat])
    updates = op.b.reshape(written, op.shape(2), like=op.inputs[2])
    if reduction == "add":
        return [g, None, updates]
    kept = np.ones((leading, 1))
    kept[rows] = 0.0
    return [op.b.reshape(op.mul(flat, op.b.constant(kept)), shape, like=op.inputs[0]), None, updates]


def _leading(op: Op, shape: Shape, batch_dims: int) -> tuple[int, Array]:
    """Return how many elements the indexed leading axes of ``shape`` have together, and which of them are selected."""
    indices = constant(op, 1)
    depth = batch_dims + indices.shape[-1]
    sizes = [static(d) for d in shape[:depth]]
    batch = np.indices(indices.shape[:-1])[:batch_dims]  # the coordinates that batch_dims leaves out of the indices
    coordinates = [*batch, *np.moveaxis(indices, -1, 0)]
    wrapped = [c % n for c, n in zip(coordinates, sizes, strict=True)]
    return int(np.prod(sizes)), np.ravel_multi_index(wrapped, sizes).reshape(-1)


@rule("GatherElements")
def gather_elements(op: Op, g: str) -> str:
    """g summed into the positions that the indices name; the indices may depend on the image."""
    shape = op.shape()
    axis = int(op.attr("axis", 0)) % len(shape)
    if any(a != b for i, (a, b) in enumerate(zip(shape, op.output_shape, strict=True)) if i != axis):
        raise UnsupportedCaseError(f"it leaves out elements beside its axis {axis}; slice them off first")
    return _placed(op, g, op.inputs[1], axis, static(shape[axis]))


@rule("TopK", constant_inputs=(1,), all_outputs=True)
def top_k(op: Op, g: str) -> str | None:
    """g put back to where the values were found."""
    if op.grads[0] is None:
        return None
    axis = int(op.attr("axis", -1)) % len(op.shape())
    return _placed(op, g, op.node.output[1], axis, static(op.shape()[axis]))


def _placed(op: Op, g: str, indices: str, axis: int, size: int) -> str:
    """Return sum_k g_k * [indices_k = position] along ``axis``."""
    b = op.b
    zero, count = b.constant(0, np.int64), b.constant(size, np.int64)
    positive = op.where(b.emit("Less", [indices, zero]), b.emit("Add", [indices, count]), indices)
    rank = len(op.shape())
    positions = b.constant(np.arange(size).reshape([-1, *[1] * (rank - axis)]), np.int64)
    hit = b.emit("Equal", [b.emit("Unsqueeze", [positive, b.ints([axis])]), positions])
    shares = op.mul(b.emit("Unsqueeze", [g, b.ints([axis])]), b.cast(hit, b.dtype))
    return b.reduce("ReduceSum", shares, [axis + 1], keepdims=False)


@rule("CumSum", constant_inputs=(1,))
def cumulative_sum(op: Op, g: str) -> str:
    """The cumulative sum of g from the other end."""
    return op.b.emit(
        "CumSum", [g, op.inputs[1]], exclusive=int(op.attr("exclusive", 0)), reverse=1 - int(op.attr("reverse", 0))
    )


@rule("Trilu", constant_inputs=(1,))
def triangle(op: Op, g: str) -> str:
    """The same triangle of g."""
    return op.b.emit("Trilu", [g, *op.inputs[1:]], upper=int(op.attr("upper", 1)))
