"""Convolutions on maps smaller than their kernel, rewritten as matrix products.

On a map of 2 x 2 a padded 3 x 3 convolution is a full matrix from every input position to every output position. As a
Gemm its weights are read once for a whole path of sample points; onnxruntime's convolution reads them for each point,
and for the deep layers of a network at 32 x 32 that reading takes the time. Measured on VGG-16 at 32 x 32, 50 points:
a tenth to a fifth of the whole explanation. The products compute the same sums in another order.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper

from export.gradients.builder import Array, Builder, Op
from export.gradients.prepare import Prepared
from export.gradients.rules_conv import geometry

# The dense matrix may hold this many times the kernel's weights: 16 / 9 for 3 x 3 on 2 x 2.
MAX_GROWTH = 2.0


def as_products(p: Prepared, b: Builder) -> None:
    """Replace, in ``p``, every ungrouped 2-D convolution whose dense matrix is small; the weights stay stored once."""
    nodes: list[onnx.NodeProto] = []
    for node in p.model.graph.node:
        if node.op_type == "Conv" and _pays(p, node):
            before = len(b.nodes)
            _product(p, b, node)
            nodes += b.nodes[before:]
            del b.nodes[before:]
        else:
            nodes.append(node)
    del p.model.graph.node[:]
    p.model.graph.node.extend(nodes)


def _pays(p: Prepared, node: onnx.NodeProto) -> bool:
    kernel = [d or 0 for d in p.shapes[node.input[1]][2:]]
    places = [d or 0 for d in (*p.shapes[node.input[0]][2:], *p.shapes[node.output[0]][2:])]
    grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
    if grouped or len(kernel) != 2 or node.input[1] in p.dependent or math.prod(kernel) == 1:
        return False
    return 0 < math.prod(places) <= MAX_GROWTH * math.prod(kernel)


def _product(p: Prepared, b: Builder, node: onnx.NodeProto) -> None:
    """Emit Reshape, Gemm, Reshape for ``node``, and the dense matrix [C * H * W, M * h * w] from its kernel."""
    op = Op(node, b)
    scope, b.scope = b.scope, "small_map"
    m, c, *kernel = (d or 0 for d in p.shapes[node.input[1]])
    size, out = p.shapes[node.input[0]][2:], p.shapes[node.output[0]][2:]
    inner, outer = math.prod(d or 0 for d in size), math.prod(d or 0 for d in out)
    taps = b.emit("Reshape", [node.input[1], b.ints([m * c, math.prod(kernel)])])
    spread = b.emit("MatMul", [taps, b.constant(_selection(op, kernel))])
    split = b.emit("Reshape", [spread, b.ints([m, c, outer, inner])])
    dense = b.emit("Reshape", [b.transpose(split, [1, 3, 0, 2]), b.ints([c * inner, m * outer])])
    flat = b.emit("Reshape", [node.input[0], b.ints([0, c * inner])])
    inputs = [flat, dense]
    if op.has(2):
        column = b.emit("Expand", [b.emit("Reshape", [node.input[2], b.ints([m, 1])]), b.ints([m, outer])])
        inputs.append(b.emit("Reshape", [column, b.ints([m * outer])]))
    product = b.emit("Gemm", inputs)
    b.scope = scope
    b.nodes.append(helper.make_node("Reshape", [product, b.ints([0, m, *(d or 0 for d in out)])], [node.output[0]]))
    batch = p.shapes[node.input[0]][0]
    for name, shape in ((flat, (batch, c * inner)), (dense, (c * inner, m * outer)), (product, (batch, m * outer))):
        p.shapes[name] = shape
    if op.has(2):
        p.shapes[inputs[2]] = (m * outer,)
    p.dependent.update((flat, product))


def _selection(op: Op, kernel: list[int]) -> Array:
    """Return the 0/1 matrix [kh * kw, outputs * inputs]: which tap leads from an input to an output position."""
    strides, dilations, begin = geometry(op, 2, kernel)
    size, out = op.shape()[2:], op.output_shape[2:]
    axes = []
    for axis in range(2):
        n, o = size[axis] or 0, out[axis] or 0
        place = np.arange(o)[:, None] * strides[axis] - begin[axis] + np.arange(kernel[axis]) * dilations[axis]
        axes.append(place[:, :, None] == np.arange(n))  # [output, tap, input]
    grid: Array = np.einsum("okn,plm->klopnm", axes[0].astype(float), axes[1].astype(float))
    return grid.reshape(math.prod(kernel), -1)
