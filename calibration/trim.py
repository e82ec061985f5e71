"""Kernels without the taps that only ever meet padding.

On a map of 1 x 1 a padded 3 x 3 convolution uses its centre alone: eight ninths of the weights multiply zeros. A
floating-point kernel that convolves directly skips them; onnxruntime's integer kernel unfolds the padded map into a
matrix and reads every weight. At 32 x 32 the last stage of ResNet-18 is such a case and holds most of its weights.
Gradient graphs leave the same taps out by nodes (``export.gradients.dead_taps``); here the smaller kernel is stored,
because it is what gets quantised.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper

from export.gradients.dead_taps import living_taps
from export.gradients.prepare import Prepared
from export.kinks import attributes


def trim_kernels(p: Prepared) -> int:
    """Cut, in ``p``, such taps off every two-dimensional convolution with stored weights; return how many weights went.

    The sums stay what they were: only products with padding disappear.
    """
    graph = p.model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    saved = 0
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in stored and readers[node.input[1]] == 1:
            saved += _trim(p, node, stored[node.input[1]])
    return saved


def _trim(p: Prepared, node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    found = attributes(node)
    size, out = p.shapes[node.input[0]][2:], p.shapes[node.output[0]][2:]
    axes = len(size)
    if found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"") or None in size or None in out or axes != 2:
        return 0
    pads = list(found.get("pads", [0] * (2 * axes)))
    kept = []
    for axis in range(axes):
        stride = found.get("strides", [1] * axes)[axis]
        dilation = found.get("dilations", [1] * axes)[axis]
        taps = weight.dims[2 + axis]
        used = living_taps(taps, stride, dilation, pads[axis], size[axis] or 0, out[axis] or 0)
        begin = pads[axis] - used.start * dilation
        end = pads[axes + axis] - (taps - used.stop) * dilation
        if not used or begin < 0 or end < 0:
            return 0  # part of the map is read by no tap; cutting would need negative padding
        pads[axis], pads[axes + axis] = begin, end
        kept.append(used)
    before = int(math.prod(weight.dims))
    array = numpy_helper.to_array(weight)[(slice(None), slice(None), *(slice(r.start, r.stop) for r in kept))]
    if array.size == before:
        return 0
    weight.CopyFrom(numpy_helper.from_array(array.copy(), weight.name))
    p.shapes[weight.name] = array.shape
    p.constants[weight.name] = array
    rest = [a for a in node.attribute if a.name not in ("pads", "kernel_shape")]
    del node.attribute[:]
    node.attribute.extend(rest)
    node.attribute.append(helper.make_attribute("pads", pads))
    node.attribute.append(helper.make_attribute("kernel_shape", array.shape[2:]))
    return before - int(array.size)
