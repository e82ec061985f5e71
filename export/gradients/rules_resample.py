"""Gradient rules of resampling and quantisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.gradients.builder import Array, Op, UnsupportedCaseError, static
from export.gradients.registry import rule
from export.gradients.rules_shape import along_axis


@rule("Resize", constant_inputs=(1, 2, 3))
def resize(op: Op, g: str) -> str:
    """g times the transposed interpolation matrix of each axis."""
    rank = len(op.shape())
    for axis in range(rank):
        old, new = op.shape()[axis], op.output_shape[axis]
        if old == new:
            continue
        g = along_axis(op, g, axis, _interpolation(op, axis, static(old), static(new)), rank)
    return g


def _interpolation(op: Op, axis: int, old: int, new: int) -> Array:
    """Return the matrix [new, old] that resizes one axis."""
    mode = op.attr("mode", "nearest")
    if mode not in ("nearest", "linear") or op.attr("antialias", 0):
        raise UnsupportedCaseError(
            f"mode {mode!r}{' with antialias' if op.attr('antialias', 0) else ''} has no gradient rule;"
            " use nearest or linear without antialias"
        )
    position = _source_positions(op, axis, old, new)
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    if mode == "nearest":
        chosen = _NEAREST[op.attr("nearest_mode", "round_prefer_floor")](position)
        matrix[rows, np.clip(chosen, 0, old - 1).astype(int)] = 1
        return matrix
    low = np.floor(position)
    for index, weight in ((low, 1 - (position - low)), (low + 1, position - low)):
        np.add.at(matrix, (rows, np.clip(index, 0, old - 1).astype(int)), weight)
    return matrix


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _source_positions(op: Op, axis: int, old: int, new: int) -> Array:
    """Return where each output position reads, by ``coordinate_transformation_mode`` of the ONNX specification."""
    mode = op.attr("coordinate_transformation_mode", "half_pixel")
    scale = _scale(op, axis, old, new)
    out = np.arange(new, dtype=float)
    if mode == "align_corners":
        return out * (old - 1) / (new - 1) if new > 1 else np.zeros(1)
    if mode == "asymmetric":
        return out / scale
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = new / (scale * old)
        return old / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5
    raise UnsupportedCaseError(
        f"coordinate_transformation_mode {mode!r} has no gradient rule; use half_pixel, asymmetric or align_corners"
    )


def _scale(op: Op, axis: int, old: int, new: int) -> float:
    scales = op.constant(2)
    if scales is None or not scales.size:
        return new / old
    axes = op.attr("axes")
    index = axis if axes is None else [int(a) % len(op.shape()) for a in axes].index(axis)
    return float(scales[index])


@rule("QuantizeLinear", constant_inputs=(1, 2))
def quantize_linear(op: Op, g: str) -> str:
    """Straight through inside the representable range, 0 where clipped; with the scale of the rounding undone.

    y = round(x / s) + z, so that dy/dx is 1 / s inside the range; DequantizeLinear multiplies by s, and a pair of both
    passes g unchanged.
    """
    scale, zero = op.inputs[1], _zero_point(op)
    low, high = _range(op)
    b = op.b
    shape = _along(op, 1)
    x = op.div(op.inputs[0], _shaped(op, scale, shape))
    if zero is not None:
        x = op.add(x, _shaped(op, b.cast(zero, b.dtype), shape))
    # rounding moves half a step over the bound back inside
    inside = b.emit("And", [op.greater(x, low - 0.5), op.greater(high + 0.5, x)])
    return op.where(inside, op.div(g, _shaped(op, scale, shape)), 0.0)


@rule("DequantizeLinear", constant_inputs=(1, 2))
def dequantize_linear(op: Op, g: str) -> str:
    """g * scale."""
    return op.mul(g, _shaped(op, op.inputs[1], _along(op, 1)))


def _along(op: Op, index: int) -> list[int] | None:
    """Return the shape that lets a per-channel vector broadcast along the node's axis; None for a scalar."""
    shape = op.shape(index)
    if not shape or shape == (1,):
        return None
    axis = int(op.attr("axis", 1)) % len(op.shape())
    return [-1 if i == axis else 1 for i in range(len(op.shape()))]


def _shaped(op: Op, name: str, shape: list[int] | None) -> str:
    return name if shape is None else op.b.emit("Reshape", [name, op.b.ints(shape)])


def _zero_point(op: Op) -> str | None:
    return op.inputs[2] if op.has(2) else None


def _range(op: Op) -> tuple[float, float]:
    """Return the smallest and largest quantised value of the node's integer type."""
    zero = op.constant(2)
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if not np.issubdtype(dtype, np.integer):
        raise UnsupportedCaseError(f"its type {dtype} has no gradient rule; only integers have")
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)
