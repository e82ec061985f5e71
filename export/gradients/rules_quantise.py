"""Gradient rules of quantisation: straight through where a value is representable, 0 where it is clipped.

Rounding has the derivative 0 almost everywhere, which would silence every layer before it. As in quantisation-aware
training (Bengio et al. 2013), a pair of QuantizeLinear and DequantizeLinear therefore passes the gradient unchanged
where round(x / scale) + zero point lies in the integer type's range, and nothing outside, where the value is clipped.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from export.gradients.builder import Array, Op, UnsupportedCaseError
from export.gradients.registry import rule

# NumPy has no dtype of its own for these.
_SMALL_INTEGERS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}


@rule("QuantizeLinear", constant_inputs=(1, 2))
def quantize_linear(op: Op, g: str) -> str:
    """g / scale inside the range, 0 outside: y = round(x / scale) + zero without its rounding."""
    b = op.b
    scale = _shaped(op)
    zero = _zero_point(op)
    low, high = (bound - zero for bound in _range(op))
    steps = op.div(op.inputs[0], scale)
    # rounding, half to even, brings half a step beyond the range back inside
    inside = b.emit(
        "And",
        [b.emit("GreaterOrEqual", [steps, b.constant(low - 0.5)]), b.emit("Less", [steps, b.constant(high + 0.5)])],
    )
    return op.where(inside, op.div(g, scale), 0.0)


@rule("DequantizeLinear", constant_inputs=(1, 2))
def dequantize_linear(op: Op, g: str) -> str:
    """g * scale."""
    return op.mul(g, _shaped(op))


def _shaped(op: Op) -> str:
    """Return the scale so that it broadcasts: as it is for the whole tensor, along the axis for one value a channel."""
    sizes = _broadcast_shape(op)
    return op.inputs[1] if sizes is None else op.b.emit("Reshape", [op.inputs[1], op.b.ints(sizes)])


def _broadcast_shape(op: Op) -> list[int] | None:
    if op.attr("block_size", 0):
        raise UnsupportedCaseError(
            "it quantises in blocks, which has no gradient rule; use one scale a tensor or channel"
        )
    if op.shape(1) in ((), (1,)):
        return None
    rank = len(op.shape())
    return [-1 if i == int(op.attr("axis", 1)) % rank else 1 for i in range(rank)]


def _zero_point(op: Op) -> Array:
    if not op.has(2):
        return np.zeros(())
    zero = op.constant(2)
    if zero is None:
        raise UnsupportedCaseError("its zero point is not known when the graph is built; use static quantisation")
    sizes = _broadcast_shape(op)
    return zero.astype(float).reshape(() if sizes is None else sizes)


def _range(op: Op) -> tuple[float, float]:
    """Return the smallest and largest value of the node's integer type."""
    zero = op.constant(2) if op.has(2) else None
    declared = int(op.attr("output_dtype", 0))
    if zero is not None:
        dtype = zero.dtype
    else:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(declared)) if declared else np.dtype(np.uint8)
    if dtype.name in _SMALL_INTEGERS:
        return _SMALL_INTEGERS[dtype.name]
    if dtype.kind not in "iu":
        raise UnsupportedCaseError(f"its type {dtype.name} has no gradient rule; only integers have")
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
