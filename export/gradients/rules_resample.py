"""Gradient rule of resampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from export.gradients.builder import Array, Op, UnsupportedCaseError, static
from export.gradients.registry import rule
from export.gradients.rules_shape import along_axis, constant


@rule("Resize", constant_inputs=(1, 2, 3))
def resize(op: Op, g: str) -> str:
    """g times the transposed interpolation matrix of each axis."""
    rank = len(op.shape())
    for axis in range(rank):
        old, new = op.shape()[axis], op.output_shape[axis]
        if old == new and (old is None or _scale(op, axis, old, old) == 1):
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
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    if mode == "nearest":
        position = _source_positions(op, axis, old, new, np.float32)  # the engines' type decides between neighbours
        chosen = _NEAREST[op.attr("nearest_mode", "round_prefer_floor")](position)
        matrix[rows, np.clip(chosen, 0, old - 1).astype(int)] = 1
        return matrix
    position = _source_positions(op, axis, old, new, np.float64)
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


def _source_positions(op: Op, axis: int, old: int, new: int, dtype: type[np.floating[Any]]) -> Array:
    """Return where each output position reads, by ``coordinate_transformation_mode`` of the ONNX specification."""
    mode = op.attr("coordinate_transformation_mode", "half_pixel")
    scale = dtype(_scale(op, axis, old, new))
    out = np.arange(new, dtype=dtype)
    position: Array
    if mode in ("align_corners", "pytorch_half_pixel") and new == 1:
        position = np.zeros(1)
    elif mode == "align_corners":
        position = out * (old - 1) / (new - 1)
    elif mode == "asymmetric":
        position = out / scale
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        position = (out + 0.5) / scale - 0.5
    elif mode == "half_pixel_symmetric":
        adjustment = new / (scale * old)
        position = old / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5
    else:
        raise UnsupportedCaseError(
            f"coordinate_transformation_mode {mode!r} has no gradient rule; use half_pixel, asymmetric or align_corners"
        )
    return position


def _scale(op: Op, axis: int, old: int, new: int) -> float:
    rank = len(op.shape())
    axes = [int(a) % rank for a in op.attr("axes", range(rank))]
    if axis not in axes:
        return 1.0
    scales = op.constant(2)
    if scales is not None and scales.size:
        return float(scales[axes.index(axis)])
    policy = op.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return new / old
    ratios = [int(n) / static(op.shape()[a]) for n, a in zip(constant(op, 3), axes, strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)
