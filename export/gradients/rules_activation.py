"""Gradient rules of activations and elementwise functions of one input: g * f'(x)."""

from __future__ import annotations

import math

import numpy as np

from export.gradients.builder import STEEP, Op, UnsupportedCaseError, blocked
from export.gradients.registry import rule


@rule("Relu")
def relu(op: Op, g: str) -> str:
    """g where the output is positive; 0 at 0."""
    return op.masked(g, op.output)


@rule("LeakyRelu")
def leaky_relu(op: Op, g: str) -> str:
    """g where x > 0, alpha * g elsewhere."""
    return op.where(op.greater(op.inputs[0], 0.0), g, op.mul(g, float(op.attr("alpha", 0.01))))


@rule("PRelu", broadcast=True, constant_inputs=(1,))
def prelu(op: Op, g: str) -> str:
    """g where x > 0, slope * g elsewhere."""
    return op.where(op.greater(op.inputs[0], 0.0), g, op.mul(g, op.inputs[1]))


@rule("ThresholdedRelu")
def thresholded_relu(op: Op, g: str) -> str:
    """g where x > alpha."""
    return op.where(op.greater(op.inputs[0], float(op.attr("alpha", 1.0))), g, 0.0)


@rule("Shrink")
def shrink(op: Op, g: str) -> str:
    """g where |x| > lambd."""
    return op.where(op.greater(op.unary("Abs", op.inputs[0]), float(op.attr("lambd", 0.5))), g, 0.0)


@rule("Elu")
def elu(op: Op, g: str) -> str:
    """g where x > 0, g * (y + alpha) elsewhere."""
    slope = op.add(op.output, float(op.attr("alpha", 1.0)))
    return op.where(op.greater(op.inputs[0], 0.0), g, op.mul(g, slope))


@rule("Celu")
def celu(op: Op, g: str) -> str:
    """g where x > 0, g * exp(x / alpha) = g * (y / alpha + 1) elsewhere."""
    slope = op.add(op.div(op.output, float(op.attr("alpha", 1.0))), 1.0)
    return op.where(op.greater(op.inputs[0], 0.0), g, op.mul(g, slope))


@rule("Selu")
def selu(op: Op, g: str) -> str:
    """gamma * g where x > 0, g * (y + gamma * alpha) elsewhere."""
    gamma = float(op.attr("gamma", 1.0507009873554805))
    alpha = float(op.attr("alpha", 1.6732632423543772))
    return op.where(op.greater(op.inputs[0], 0.0), op.mul(g, gamma), op.mul(g, op.add(op.output, gamma * alpha)))


@rule("Sigmoid")
def sigmoid(op: Op, g: str) -> str:
    """g * y * (1 - y)."""
    return op.mul(g, op.mul(op.output, op.sub(1.0, op.output)))


@rule("HardSigmoid")
def hard_sigmoid(op: Op, g: str) -> str:
    """alpha * g strictly inside (0, 1), 0 elsewhere."""
    inside = op.mul(op.step(op.output), op.step(op.output, scale=-1.0, offset=1.0))
    return op.mul(op.mul(g, float(op.attr("alpha", 0.2))), inside)


@rule("HardSwish")
def hard_swish(op: Op, g: str) -> str:
    """0 below -3, g above 3, g * (x / 3 + 1 / 2) between."""
    x, shape = op.inputs[0], op.shape()
    if not blocked(shape):
        slope = op.add(op.mul(x, 1 / 3), 0.5)
        inner = op.where(op.greater(3.0, x), slope, 1.0)
        return op.mul(g, op.where(op.greater(x, -3.0), inner, 0.0))
    # y' is hardsigmoid(x) + x / 6 inside and hardsigmoid(x) outside; the mask "inside" is the step of 9 - x^2.
    gate = op.b.emit("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
    inside = op.b.emit("HardSigmoid", [op.mul(x, x)], alpha=-STEEP, beta=9 * STEEP)
    slope = op.add(op.scaled(op.mul(x, inside), shape, 1 / 6), gate)
    return op.mul(g, slope)


@rule("Tanh")
def tanh(op: Op, g: str) -> str:
    """g * (1 - y^2)."""
    return op.mul(g, op.sub(1.0, op.mul(op.output, op.output)))


@rule("Softplus")
def softplus(op: Op, g: str) -> str:
    """g * sigmoid(x)."""
    return op.mul(g, op.unary("Sigmoid", op.inputs[0]))


@rule("Softsign")
def softsign(op: Op, g: str) -> str:
    """g / (1 + |x|)^2."""
    d = op.add(op.unary("Abs", op.inputs[0]), 1.0)
    return op.div(g, op.mul(d, d))


@rule("Mish")
def mish(op: Op, g: str) -> str:
    """g * (t + x * (1 - t^2) * sigmoid(x)) with t = tanh(softplus(x))."""
    x = op.inputs[0]
    t = op.unary("Tanh", op.unary("Softplus", x))
    bend = op.mul(op.sub(1.0, op.mul(t, t)), op.unary("Sigmoid", x))
    return op.mul(g, op.add(t, op.mul(x, bend)))


@rule("Gelu")
def gelu(op: Op, g: str) -> str:
    """g * (Phi(x) + x * phi(x)), or the derivative of the tanh approximation."""
    x = op.inputs[0]
    if op.attr("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        square = op.mul(x, x)
        t = op.unary("Tanh", op.mul(op.mul(x, c), op.add(op.mul(square, 0.044715), 1.0)))
        inner = op.mul(op.add(op.mul(square, 3 * 0.044715), 1.0), c)
        bend = op.mul(op.mul(x, inner), op.sub(1.0, op.mul(t, t)))
        return op.mul(g, op.mul(op.add(op.add(t, 1.0), bend), 0.5))
    cumulative = op.mul(op.add(op.unary("Erf", op.mul(x, math.sqrt(0.5))), 1.0), 0.5)
    density = op.mul(op.unary("Exp", op.mul(op.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return op.mul(g, op.add(cumulative, op.mul(x, density)))


@rule("Erf")
def erf(op: Op, g: str) -> str:
    """g * 2 / sqrt(pi) * exp(-x^2)."""
    x = op.inputs[0]
    return op.mul(g, op.mul(op.unary("Exp", op.neg(op.mul(x, x))), 2 / math.sqrt(math.pi)))


@rule("Exp")
def exp(op: Op, g: str) -> str:
    """g * y."""
    return op.mul(g, op.output)


@rule("Log")
def log(op: Op, g: str) -> str:
    """g / x."""
    return op.div(g, op.inputs[0])


@rule("Sqrt")
def sqrt(op: Op, g: str) -> str:
    """g / (2 y)."""
    return op.div(op.mul(g, 0.5), op.output)


@rule("Reciprocal")
def reciprocal(op: Op, g: str) -> str:
    """-g * y^2."""
    return op.neg(op.mul(g, op.mul(op.output, op.output)))


@rule("Abs")
def absolute(op: Op, g: str) -> str:
    """g * sign(x); 0 at 0."""
    return op.mul(g, op.unary("Sign", op.inputs[0]))


@rule("Neg")
def neg(op: Op, g: str) -> str:
    """-g."""
    return op.neg(g)


@rule("Sin")
def sin(op: Op, g: str) -> str:
    """g * cos(x)."""
    return op.mul(g, op.unary("Cos", op.inputs[0]))


@rule("Cos")
def cos(op: Op, g: str) -> str:
    """-g * sin(x)."""
    return op.neg(op.mul(g, op.unary("Sin", op.inputs[0])))


@rule("Clip", constant_inputs=(1, 2))
def clip(op: Op, g: str) -> str:
    """g strictly inside (min, max), 0 elsewhere: 0 at the bounds, as PyTorch's ReLU6 and Hardtanh have it."""
    for index, sign in ((1, 1.0), (2, -1.0)):
        if not op.has(index):
            continue
        bound = op.constant(index)
        if bound is None:
            pair = [op.output, op.inputs[index]][:: int(sign)]
            g = op.where(op.greater(*pair), g, 0.0)
        elif np.isfinite(bound):
            g = op.mul(g, op.step(op.output, scale=sign, offset=-sign * float(bound)))
    return g


@rule("Cast", "CastLike")
def cast(op: Op, g: str) -> str:
    """g; between two floating-point types the graph would need gradients of both. (Casts to integers carry none.)"""
    if op.attr("to", op.b.dtype) != op.b.dtype:
        raise UnsupportedCaseError("it changes the floating-point type; export the model in one type")
    return g


@rule("Identity")
def identity(op: Op, g: str) -> str:
    """g."""
    return g
