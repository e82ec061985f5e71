"""Gradient rules of reductions, softmax and normalisation."""

from __future__ import annotations

import numpy as np

from export.gradients.builder import Op, Shape, UnsupportedCaseError, static
from export.gradients.registry import rule


def _spread(op: Op, g: str, axes: list[int]) -> str:
    """Bring the gradient of a reduction back to a shape that broadcasts against the input."""
    if op.attr("keepdims", 1):
        return g
    return op.b.emit("Unsqueeze", [g, op.b.ints(axes)])


def _expanded(op: Op, g: str) -> str:
    """Repeat g over the reduced axes."""
    shape = op.shape()
    if _spatial(op.axes(), shape):
        return op.b.repeat(g, shape)
    return op.b.emit("Expand", [g, op.b.ints([1 if d is None else d for d in shape])])


def _spatial(axes: list[int], shape: Shape) -> bool:
    return len(shape) == 4 and axes == [2, 3]


def _kept_output(op: Op, axes: list[int]) -> str:
    """Return the reduction's output with the reduced axes kept as 1."""
    return op.output if op.attr("keepdims", 1) else op.b.emit("Unsqueeze", [op.output, op.b.ints(axes)])


def _reduced(op: Op) -> list[int]:
    """Return the reduced axes; the batch is none of them."""
    axes = op.axes()
    for axis in axes:
        static(op.shape()[axis])
    return axes


@rule("ReduceSum", constant_inputs=(1,))
def reduce_sum(op: Op, g: str) -> str:
    """g, repeated over the reduced axes."""
    return _expanded(op, _spread(op, g, _reduced(op)))


@rule("ReduceMean", constant_inputs=(1,))
def reduce_mean(op: Op, g: str) -> str:
    """g / n, repeated over the reduced axes."""
    axes = _reduced(op)
    count = float(np.prod([op.shape()[a] or 1 for a in axes]))
    return _expanded(op, op.mul(_spread(op, g, axes), 1 / count))


@rule("ReduceMax", "ReduceMin", constant_inputs=(1,))
def reduce_extremum(op: Op, g: str) -> str:
    """g to the elements that attain the extremum, shared equally on a tie, as PyTorch's amax and amin."""
    axes = _reduced(op)
    hit = op.b.cast(op.b.emit("Equal", [op.inputs[0], _kept_output(op, axes)]), op.b.dtype)
    ties = op.b.reduce("ReduceSum", hit, axes)
    return op.mul(hit, op.div(_spread(op, g, axes), ties))


@rule("ReduceL1", constant_inputs=(1,))
def reduce_l1(op: Op, g: str) -> str:
    """g * sign(x)."""
    return op.mul(_spread(op, g, _reduced(op)), op.unary("Sign", op.inputs[0]))


@rule("ReduceL2", constant_inputs=(1,))
def reduce_l2(op: Op, g: str) -> str:
    """g * x / y; 0 where the norm is 0."""
    axes = _reduced(op)
    y = _kept_output(op, axes)
    safe = op.where(op.greater(y, 0.0), y, 1.0)
    return op.mul(op.inputs[0], op.div(_spread(op, g, axes), safe))


@rule("ReduceSumSquare", constant_inputs=(1,))
def reduce_sum_square(op: Op, g: str) -> str:
    """2 g x."""
    return op.mul(op.inputs[0], op.mul(_spread(op, g, _reduced(op)), 2.0))


@rule("ReduceLogSumExp", constant_inputs=(1,))
def reduce_log_sum_exp(op: Op, g: str) -> str:
    """g * exp(x - y)."""
    axes = _reduced(op)
    return op.mul(_spread(op, g, axes), op.unary("Exp", op.sub(op.inputs[0], _kept_output(op, axes))))


@rule("ReduceLogSum", constant_inputs=(1,))
def reduce_log_sum(op: Op, g: str) -> str:
    """g / exp(y)."""
    axes = _reduced(op)
    return _expanded(op, op.div(_spread(op, g, axes), op.unary("Exp", _kept_output(op, axes))))


@rule("ReduceProd", constant_inputs=(1,))
def reduce_prod(op: Op, g: str) -> str:
    """g * y / x; the elements must not be 0."""
    axes = _reduced(op)
    return op.div(op.mul(_spread(op, g, axes), _kept_output(op, axes)), op.inputs[0])


@rule("Softmax")
def softmax(op: Op, g: str) -> str:
    """y * (g - sum(g * y))."""
    axis = int(op.attr("axis", -1)) % len(op.shape())
    total = op.b.reduce("ReduceSum", op.mul(g, op.output), [axis])
    return op.mul(op.output, op.sub(g, total))


@rule("LogSoftmax")
def log_softmax(op: Op, g: str) -> str:
    """g - softmax(x) * sum(g)."""
    axis = int(op.attr("axis", -1)) % len(op.shape())
    total = op.b.reduce("ReduceSum", g, [axis])
    return op.sub(g, op.mul(op.unary("Exp", op.output), total))


def _channel_shape(shape: Shape) -> list[int]:
    """[C, 1, 1, ...], to broadcast a vector over channels."""
    return [-1, *([1] * (len(shape) - 2))]


@rule("BatchNormalization", constant_inputs=(1, 2, 3, 4))
def batch_normalization(op: Op, g: str) -> str:
    """g * gamma / sqrt(var + eps): at inference an affine map of each channel."""
    if op.attr("training_mode", 0):
        raise UnsupportedCaseError("it is in training mode; export the model in eval()")
    gamma, variance = op.inputs[1], op.inputs[4]
    spread = op.unary("Sqrt", op.add(variance, float(op.attr("epsilon", 1e-5))))
    slope = op.b.emit("Reshape", [op.div(gamma, spread), op.b.ints(_channel_shape(op.shape()))])
    return op.mul(g, slope)


def _normalised(op: Op, x: str, g: str, axes: list[int], epsilon: float) -> str:
    """Differentiate (x - mean) / sqrt(var + eps) over ``axes``: r * (g - mean(g) - z * mean(g * z))."""
    b = op.b
    centred = op.sub(x, b.reduce("ReduceMean", x, axes))
    variance = b.reduce("ReduceMean", op.mul(centred, centred), axes)
    r = op.unary("Reciprocal", op.unary("Sqrt", op.add(variance, epsilon)))
    z = op.mul(centred, r)
    drift = op.add(b.reduce("ReduceMean", g, axes), op.mul(z, b.reduce("ReduceMean", op.mul(g, z), axes)))
    return op.mul(r, op.sub(g, drift))


@rule("LayerNormalization", constant_inputs=(1, 2))
def layer_normalization(op: Op, g: str) -> str:
    """The normalisation's Jacobian applied to g * scale, over the trailing axes."""
    rank = len(op.shape())
    axis = int(op.attr("axis", -1)) % rank
    return _normalised(
        op, op.inputs[0], op.mul(g, op.inputs[1]), list(range(axis, rank)), float(op.attr("epsilon", 1e-5))
    )


@rule("InstanceNormalization", constant_inputs=(1, 2))
def instance_normalization(op: Op, g: str) -> str:
    """The normalisation's Jacobian applied to g * scale, over the spatial axes."""
    scale = op.b.emit("Reshape", [op.inputs[1], op.b.ints(_channel_shape(op.shape()))])
    axes = list(range(2, len(op.shape())))
    return _normalised(op, op.inputs[0], op.mul(g, scale), axes, float(op.attr("epsilon", 1e-5)))


@rule("GroupNormalization", constant_inputs=(1, 2))
def group_normalization(op: Op, g: str) -> str:
    """The normalisation's Jacobian applied to g * scale, over each group of channels."""
    shape = op.shape()
    groups = int(op.attr("num_groups"))
    channels = shape[1] or 0
    scale = op.inputs[1]
    if op.b.opset < 21:  # one scale for each group, before opset 21
        scale = op.b.emit("Reshape", [scale, op.b.ints([groups, 1])])
        scale = op.b.emit(
            "Reshape", [op.b.emit("Expand", [scale, op.b.ints([groups, channels // groups])]), op.b.ints([-1])]
        )
    scaled = op.mul(g, op.b.emit("Reshape", [scale, op.b.ints(_channel_shape(shape))]))
    grouped: list[int | None] = [shape[0], groups, channels // groups, *shape[2:]]
    x, inner = op.b.reshape(op.inputs[0], grouped), op.b.reshape(scaled, grouped)
    axes = list(range(2, len(grouped)))
    return op.b.reshape(_normalised(op, x, inner, axes, float(op.attr("epsilon", 1e-5))), shape)


@rule("RMSNormalization", constant_inputs=(1,))
def rms_normalization(op: Op, g: str) -> str:
    """r * (g - z * mean(g * z)) with z = x * r, r = 1 / sqrt(mean(x^2) + eps), over the trailing axes."""
    rank = len(op.shape())
    axes = list(range(int(op.attr("axis", -1)) % rank, rank))
    x, g = op.inputs[0], op.mul(g, op.inputs[1])
    power = op.b.reduce("ReduceMean", op.mul(x, x), axes)
    r = op.unary("Reciprocal", op.unary("Sqrt", op.add(power, float(op.attr("epsilon", 1e-5)))))
    z = op.mul(x, r)
    return op.mul(r, op.sub(g, op.mul(z, op.b.reduce("ReduceMean", op.mul(g, z), axes))))


@rule("LRN")
def lrn(op: Op, g: str) -> str:
    """g * d^-beta - 2 alpha beta / size * x * window(g * y / d) with d = bias + alpha / size * window(x^2)."""
    size = int(op.attr("size"))
    alpha, beta, bias = (float(op.attr(n, d)) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    x = op.inputs[0]
    before = (size - 1) // 2
    d = op.add(op.mul(_channel_window(op, op.mul(x, x), size, before), alpha / size), bias)
    # the window of the backward pass is the forward one mirrored, which matters for even sizes
    spread = _channel_window(op, op.mul(g, op.div(op.output, d)), size, size - 1 - before)
    direct = op.mul(g, op.b.emit("Pow", [d, op.b.constant(-beta)]))
    return op.sub(direct, op.mul(op.mul(x, spread), 2 * alpha * beta / size))


def _channel_window(op: Op, x: str, size: int, before: int) -> str:
    """Sum over windows of ``size`` channels, ``before`` of them in front, by a 0/1 matrix."""
    channels = op.shape()[1] or 0
    distance = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = ((distance >= -before) & (distance <= size - 1 - before)).astype(float)
    kernel = op.b.constant(band[:, :, None, None])
    return op.b.emit("Conv", [x, kernel], kernel_shape=[1, 1])


@rule("LpNormalization")
def lp_normalization(op: Op, g: str) -> str:
    """L2: (g - y * sum(g * y)) / norm. L1: (g - sign(x) * sum(g * y)) / norm."""
    x = op.inputs[0]
    axis = int(op.attr("axis", -1)) % len(op.shape())
    p = int(op.attr("p", 2))
    norm = op.b.reduce("ReduceL2" if p == 2 else "ReduceL1", x, [axis])
    total = op.b.reduce("ReduceSum", op.mul(g, op.output), [axis])
    direction = op.output if p == 2 else op.unary("Sign", x)
    return op.div(op.sub(g, op.mul(direction, total)), norm)
