"""Kernel positions that meet nothing but padding, left out.

The deep layers of a network made for large images see maps of one or two pixels when it runs at 32 x 32: on a map of
1 x 1 a padded 3 x 3 convolution multiplies eight ninths of its weights by padding. Engines still read them all, and
there that reading is most of the time. The sums that are left are the same.
"""

from __future__ import annotations

import onnx
from onnx import helper

from export.gradients.builder import Builder, Op
from export.gradients.prepare import Prepared
from export.gradients.rules_conv import geometry


def without_dead_taps(p: Prepared, b: Builder) -> None:
    """Cut, in ``p``, the kernel of every 2-D convolution down to the positions that meet its input."""
    nodes: list[onnx.NodeProto] = []
    for node in p.model.graph.node:
        if node.op_type == "Conv" and len(p.shapes[node.input[1]]) == 4 and node.input[1] not in p.dependent:
            before = len(b.nodes)
            node = _trimmed(p, b, node)
            nodes += b.nodes[before:]
            del b.nodes[before:]
        nodes.append(node)
    del p.model.graph.node[:]
    p.model.graph.node.extend(nodes)


def _trimmed(p: Prepared, b: Builder, node: onnx.NodeProto) -> onnx.NodeProto:
    op = Op(node, b)
    m, c, *kernel = (d or 0 for d in p.shapes[node.input[1]])
    strides, dilations, begin = geometry(op, 2, kernel)
    size, out = op.shape()[2:], op.output_shape[2:]
    kept = [
        living_taps(k, s, d, start, n or 0, o or 0)
        for k, s, d, start, n, o in zip(kernel, strides, dilations, begin, size, out, strict=True)
    ]
    first, shape = [taps.start for taps in kept], [len(taps) for taps in kept]
    new_begin = [start - f * d for start, f, d in zip(begin, first, dilations, strict=True)]
    # what the last output reads beyond the input
    end = [
        (o or 0) * s - s + (k - 1) * d + 1 - start - (n or 0)
        for o, s, k, d, start, n in zip(out, strides, shape, dilations, new_begin, size, strict=True)
    ]
    more = any(e <= -s for e, s in zip(end, strides, strict=True))  # even without padding more outputs would fit
    if shape == kernel or 0 in shape or more:
        return node
    scope, b.scope = b.scope, "dead_taps"
    weight = b.slice(node.input[1], [2, 3], first, [taps.stop for taps in kept])
    b.scope = scope
    p.shapes[weight] = (m, c, *shape)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "auto_pad"}
    attributes |= {"kernel_shape": shape, "pads": [*new_begin, *(max(0, e) for e in end)]}
    return helper.make_node(
        "Conv", [node.input[0], weight, *node.input[2:]], list(node.output), node.name, **attributes
    )


def living_taps(kernel: int, stride: int, dilation: int, begin: int, size: int, out: int) -> range:
    """Return the range of taps from the first to the last that meets the input, as far as padding stays positive."""
    met = [k for k in range(kernel) if any(0 <= o * stride - begin + k * dilation < size for o in range(out))]
    if not met:
        return range(0)
    first = min(met[0], begin // dilation)
    return range(first, met[-1] + 1)
