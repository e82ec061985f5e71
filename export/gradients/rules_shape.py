"""Gradient rules of operators that move values without changing them."""

from __future__ import annotations

import numpy as np

from export.gradients.builder import Array, Op, UnsupportedCaseError, static
from export.gradients.registry import rule
from export.gradients.walk import unbroadcast


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", constant_inputs=(1,))
def reshape(op: Op, g: str) -> str:
    """g in the input's shape."""
    back = op.b.reshape(g, op.shape(), source=op.output_shape, like=op.inputs[0])
    return op.b.anchor(back, op.shape())


@rule("Transpose")
def transpose(op: Op, g: str) -> str:
    """g with the axes back in place."""
    rank = len(op.shape())
    perm = list(op.attr("perm") or reversed(range(rank)))
    return op.b.transpose(g, [perm.index(axis) for axis in range(rank)])


@rule("Concat")
def concat(op: Op, g: str) -> list[str]:
    """Each input's slice of g."""
    axis = int(op.attr("axis")) % len(op.output_shape)
    sizes = [static(op.shape(i)[axis]) for i in range(len(op.inputs))]
    ends = np.cumsum(sizes)
    return [op.b.slice(g, [axis], [int(e) - n], [int(e)]) for e, n in zip(ends, sizes, strict=True)]


@rule("Split", all_outputs=True, constant_inputs=(1,))
def split(op: Op, g: str) -> str:
    """The outputs' gradients, concatenated; zeros for outputs that do not reach the logits."""
    axis = int(op.attr("axis", 0)) % len(op.shape())
    parts = [grad or op.mul(name, 0.0) for grad, name in zip(op.grads, op.node.output, strict=True)]
    return op.b.emit("Concat", parts, axis=axis)


@rule("Slice", constant_inputs=(1, 2, 3, 4))
def slice_(op: Op, g: str) -> str:
    """g put back where it was cut out, zeros around it."""
    starts, ends = constant(op, 1), constant(op, 2)
    axes = constant(op, 3) if op.has(3) else np.arange(len(starts))
    steps = constant(op, 4) if op.has(4) else np.ones(len(starts), np.int64)
    rank = len(op.shape())
    begin, end = [0] * rank, [0] * rank
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = int(axis) % rank
        n = static(op.shape()[axis]) if (start, step) != (0, 1) or op.shape()[axis] is not None else None
        if n is None:
            continue  # the whole batch
        taken = range(n)[slice(int(start), int(stop) if stop > -n - 1 else None, int(step))]
        if not taken:
            return op.mul(op.inputs[0], 0.0)
        if step < 0:
            g = op.b.slice(g, [axis], [-1], [-(2**31)], [-1])
            taken = taken[::-1]
        if abs(step) > 1 and len(taken) > 1:
            g = _spread(op, g, axis, abs(int(step)), len(taken))
        begin[axis], end[axis] = taken[0], n - 1 - taken[-1]
    return op.b.pad(g, begin, end)


def _spread(op: Op, g: str, axis: int, step: int, count: int) -> str:
    """Insert step - 1 zeros between neighbours along ``axis``."""
    shape = list(op.output_shape)
    shape[axis] = count
    wide = op.b.emit("Unsqueeze", [g, op.b.ints([axis + 1])])
    rank = len(shape) + 1
    wide = op.b.pad(wide, [0] * rank, [step - 1 if i == axis + 1 else 0 for i in range(rank)])
    shape[axis] = count * step
    flat = op.b.reshape(wide, shape)
    return op.b.slice(flat, [axis], [0], [(count - 1) * step + 1])


@rule("Pad", constant_inputs=(1, 2, 3))
def pad(op: Op, g: str) -> str:
    """g without the border; reflected and repeated borders are added back to where they came from."""
    rank = len(op.shape())
    pads = constant(op, 1)
    axes = [int(a) % rank for a in (constant(op, 3) if op.has(3) else np.arange(rank))]
    mode = op.attr("mode", "constant")
    for i, axis in enumerate(axes):
        begin, end = int(pads[i]), int(pads[i + len(axes)])
        if begin == 0 and end == 0:
            continue
        size = static(op.shape()[axis])
        if mode == "constant":
            g = _crop(op, g, axis, begin, size)
        else:
            g = _fold_border(op, g, axis, _sources(mode, size, begin, end), size)
    return g


def _crop(op: Op, g: str, axis: int, begin: int, size: int) -> str:
    """Undo a constant pad along one axis; negative pads, which cut, are put back as zeros."""
    g = op.b.slice(g, [axis], [max(0, begin)], [max(0, begin) + size + min(0, begin)])
    if begin < 0:
        rank = len(op.shape())
        g = op.b.pad(g, [-begin if i == axis else 0 for i in range(rank)], [0] * rank)
    return _fit(op, g, axis, begin, size)


def _fit(op: Op, g: str, axis: int, begin: int, size: int) -> str:
    """Pad the end with zeros where a negative end pad had cut the input."""
    padded = op.output_shape[axis]
    missing = size - (static(padded) - begin)
    if missing <= 0:
        return g
    rank = len(op.shape())
    return op.b.pad(g, [0] * rank, [missing if i == axis else 0 for i in range(rank)])


def _sources(mode: str, size: int, begin: int, end: int) -> Array:
    """Return, for each position of the padded axis, the input position it was copied from."""
    if mode not in ("reflect", "edge", "wrap"):  # which NumPy calls by the same names
        raise UnsupportedCaseError(f"mode {mode!r} has no gradient rule; use constant, reflect, edge or wrap")
    sources: Array = np.pad(np.arange(size), (max(0, begin), max(0, end)), mode=mode)  # type: ignore[call-overload]
    return sources[max(0, -begin) : len(sources) - max(0, -end)]


def _fold_border(op: Op, g: str, axis: int, sources: Array, size: int) -> str:
    """Multiply along ``axis`` by the 0/1 matrix that adds each padded position to its source."""
    matrix = np.zeros((len(sources), size))
    matrix[np.arange(len(sources)), sources] = 1.0
    return along_axis(op, g, axis, matrix, len(op.shape()))


def along_axis(op: Op, g: str, axis: int, matrix: Array, rank: int) -> str:
    """Multiply tensor ``g`` along ``axis`` by ``matrix`` [old size, new size]."""
    if axis == rank - 1:
        return op.b.emit("MatMul", [g, op.b.constant(matrix)])
    if axis == rank - 2:
        return op.b.emit("MatMul", [op.b.constant(matrix.T), g])
    perm = [*(i for i in range(rank) if i != axis), axis]
    moved = op.b.emit("MatMul", [op.b.transpose(g, perm), op.b.constant(matrix)])
    return op.b.transpose(moved, [perm.index(i) for i in range(rank)])


@rule("Expand", constant_inputs=(1,))
def expand(op: Op, g: str) -> str:
    """g summed over the repeated axes."""
    return unbroadcast(op.b, g, op.output_shape, op.shape())


@rule("Tile", constant_inputs=(1,))
def tile(op: Op, g: str) -> str:
    """g summed over the copies."""
    repeats = [int(r) for r in constant(op, 1)]
    shape = list(op.shape())
    split: list[int | None] = []
    copies = []
    for size, count in zip(shape, repeats, strict=True):
        if count > 1:
            copies.append(len(split))
            split.append(count)
        split.append(size)
    if not copies:
        return g
    return op.b.reduce("ReduceSum", op.b.reshape(g, split), copies, keepdims=False)


@rule("DepthToSpace")
def depth_to_space(op: Op, g: str) -> str:
    """SpaceToDepth of g; the CRD order is undone by a transpose."""
    block = int(op.attr("blocksize"))
    shape = op.shape()
    if op.attr("mode", "DCR") == "DCR":
        return op.b.emit("SpaceToDepth", [g], blocksize=block)
    channels, height, width = (static(d) for d in shape[1:])
    deep = channels // block**2
    grid = op.b.reshape(g, [shape[0], deep, height, block, width, block])
    return op.b.reshape(op.b.transpose(grid, [0, 1, 3, 5, 2, 4]), shape)


@rule("SpaceToDepth")
def space_to_depth(op: Op, g: str) -> str:
    """DepthToSpace of g."""
    return op.b.emit("DepthToSpace", [g], blocksize=int(op.attr("blocksize")), mode="DCR")


def constant(op: Op, index: int) -> Array:
    """Return the value of input ``index`` as an array of at least one axis."""
    value = op.constant(index)
    if value is None:
        raise UnsupportedCaseError(
            f"its input {op.inputs[index]!r} is not known when the graph is built; export with a fixed input size"
        )
    return np.atleast_1d(value)
