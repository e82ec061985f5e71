"""Gradient rules of convolutions.

The gradient of a convolution with respect to its input is again a convolution, of the output's gradient with the
flipped kernel and its channel axes exchanged. Engines run Conv far faster than ConvTranspose, so that form is emitted;
the flip is a Slice of the weight, which engines fold when they load the graph: weights are stored once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from export.gradients.builder import Builder, Op, Phases, UnsupportedCaseError, static
from export.gradients.registry import rule


def geometry(op: Op, spatial: int, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and the pads at the begin of each spatial axis."""
    strides = list(op.attr("strides") or [1] * spatial)
    dilations = list(op.attr("dilations") or [1] * spatial)
    auto = op.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return strides, dilations, list(op.attr("pads") or [0] * (2 * spatial))[:spatial]
    if auto == "VALID":
        return strides, dilations, [0] * spatial
    begin = []
    for axis in range(spatial):
        size, out = static(op.shape()[2 + axis]), static(op.output_shape[2 + axis])
        total = max(0, (out - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size)
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return strides, dilations, begin


def _swap_channels(b: Builder, weight: str, shape: Sequence[int], groups: int) -> str:
    """Turn a kernel [M, C / groups, ...] into [C, M / groups, ...]."""
    m, c = shape[0], shape[1]
    rank = len(shape)
    if groups == 1:
        return b.transpose(weight, [1, 0, *range(2, rank)])
    if c == 1 and m == groups:
        return weight
    split = b.reshape(weight, [groups, m // groups, c, *shape[2:]])
    swapped = b.transpose(split, [0, 2, 1, *range(3, rank + 1)])
    return b.reshape(swapped, [groups * c, m // groups, *shape[2:]])


def _taps(b: Builder, weight: str, size: int, axis: int, taps: Sequence[int]) -> str:
    """Select kernel positions ``taps`` (an arithmetic progression) along ``axis``."""
    taps = list(taps)
    if taps == list(range(size)):
        return weight
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    end = taps[-1] + (1 if step > 0 else -1)
    return b.slice(weight, [axis], [taps[0]], [end if end >= 0 else -size - 1], [step])


def in_two_axes(op: Op, g: str, kernel: Sequence[int], rule_of_two: Callable[[Op, str], Phases | str]) -> str:
    """Differentiate a node of one spatial axis, or of three of which it leaves two neighbours alone, as one of two."""
    b = op.b
    axes = _merged_axes(op, kernel)

    def reshaped(name: str) -> str:
        shape = b.shapes[name]
        if len(shape) != len(kernel) + 2:
            return name  # a bias
        sizes = (*shape[:2], *(math.prod(static(shape[2 + i]) for i in group) for group in axes))
        b.shapes[result := b.reshape(name, sizes)] = sizes
        return result

    strides, dilations, _ = geometry(op, len(kernel), kernel)
    pads = list(op.attr("pads") or [0] * (2 * len(kernel)))
    attributes = {a.name: helper.get_attribute_value(a) for a in op.node.attribute}
    for name, values in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        attributes[name] = [max((values[i] for i in group), default=1) for group in axes]
    attributes["pads"] = [sum(side[i] for i in group) for side in np.split(np.array(pads), 2) for group in axes]
    node = helper.make_node(
        op.node.op_type, [reshaped(name) for name in op.inputs], [reshaped(op.output)], **attributes
    )
    grad = rule_of_two(Op(node, b), b.reshape(g, b.shapes[node.output[0]]))
    return b.reshape(b.interleave(grad) if isinstance(grad, Phases) else grad, op.shape())


def _merged_axes(op: Op, kernel: Sequence[int]) -> list[list[int]]:
    """Sort one or three spatial axes into two groups, so that no group of several is worked along."""
    if len(kernel) == 1:
        return [[], [0]]
    strides, _, _ = geometry(op, len(kernel), kernel)
    pads = list(op.attr("pads") or [0] * (2 * len(kernel)))
    still = [
        k == s == 1 and not any(pads[i :: len(kernel)]) for i, (k, s) in enumerate(zip(kernel, strides, strict=True))
    ]
    for axes in ([[0], [1, 2]], [[0, 1], [2]]):
        if len(kernel) == 3 and all(still[i] for group in axes if len(group) > 1 for i in group):
            return axes
    raise UnsupportedCaseError(f"it works along {len(kernel)} axes at once; reshape it to two")


@rule("Conv", constant_inputs=(1, 2))
def conv(op: Op, g: str) -> Phases | str:
    """Conv of g with the flipped kernel; for strides, a convolution for each phase of the input grid."""
    shape = [static(d) for d in op.shape(1)]
    kernel = shape[2:]
    if len(kernel) != 2:
        return in_two_axes(op, g, kernel, conv)
    strides, dilations, begin = geometry(op, 2, kernel)
    groups = int(op.attr("group", 1))
    g_map = GradientMap(
        g=g,
        weight=_swap_channels(op.b, op.inputs[1], shape, groups),
        channels=shape[1] * groups,
        kernel=kernel,
        groups=groups,
        out=[static(d) for d in op.output_shape[2:]],
        extent=[-(-static(d) // s) for d, s in zip(op.shape()[2:], strides, strict=True)],
    )
    rows, columns = (_phase_taps(g_map, i, strides[i], dilations[i], begin[i]) for i in range(2))
    stride = (strides[0], strides[1])
    if not rows or not columns:  # every window lies in the padding
        return op.mul(op.inputs[0], 0.0)
    if groups == 1 and stride != (1, 1) and _stacking_pays(g_map.channels, rows, columns, stride):
        return op.b.depth_to_space(_stacked(op.b, g_map, rows, columns, stride), stride, op.shape())
    parts = {(r, c): _phase_conv(op.b, g_map, row, column) for r, row in rows.items() for c, column in columns.items()}
    return Phases(stride, op.shape(), parts)


@dataclass(frozen=True)
class GradientMap:
    """What the phases of one convolution share: g, the flipped-to-be weight and the sizes."""

    g: str
    weight: str
    channels: int
    kernel: Sequence[int]
    groups: int
    out: Sequence[int]
    extent: Sequence[int]


@dataclass(frozen=True)
class Taps:
    """Kernel positions that reach one phase of an input axis, and the offsets at which they read g.

    Input row u * stride + phase is the sum over taps of weight[tap] * g[u + offset]; taps descend, offsets ascend.
    """

    taps: list[int]
    offsets: list[int]

    @property
    def dilation(self) -> int:
        """The distance between neighbouring offsets."""
        return self.offsets[1] - self.offsets[0] if len(self.offsets) > 1 else 1


def _phase_taps(m: GradientMap, axis: int, stride: int, dilation: int, begin: int) -> dict[int, Taps]:
    """Sort kernel positions by the input phase that they reach: input = stride * output - begin + dilation * tap.

    Those that meet nothing but padding reach none.
    """
    phases: dict[int, Taps] = {}
    for phase in range(stride):
        reads = [(k, divmod(phase + begin - dilation * k, stride)) for k in reversed(range(m.kernel[axis]))]
        met = [(k, offset) for k, (offset, rest) in reads if rest == 0 and -m.extent[axis] < offset < m.out[axis]]
        if met:
            phases[phase] = Taps([k for k, _ in met], [offset for _, offset in met])
    return phases


def _phase_conv(b: Builder, m: GradientMap, row: Taps, column: Taps) -> str:
    """Convolve g with one phase's kernel."""
    weight = _taps(b, _taps(b, m.weight, m.kernel[0], 2, row.taps), m.kernel[1], 3, column.taps)
    return _conv_exactly(b, m, weight, [t.offsets for t in (row, column)], [row.dilation, column.dilation])


def _conv_exactly(b: Builder, m: GradientMap, weight: str, offsets: list[list[int]], dilations: list[int]) -> str:
    """Convolve g with taps at ``offsets`` so that exactly ``extent`` rows and columns come out.

    A convolution pads at least by 0; where the first tap reads beyond the begin, or where more rows than needed
    would come out, g is sliced first.
    """
    begin, end, starts, ends = [], [], [], []
    for axis, taps in enumerate(offsets):
        last = m.extent[axis] - 1 + taps[-1]  # last row of g that is read
        begin.append(max(0, -taps[0]))
        end.append(max(0, last - (m.out[axis] - 1)))
        starts.append(max(0, taps[0]))
        ends.append(min(m.out[axis], last + 1))
    g = m.g
    if starts != [0, 0] or ends != list(m.out):
        g = b.slice(g, [2, 3], starts, ends)
    return b.emit(
        "Conv",
        [g, weight],
        group=m.groups,
        kernel_shape=[len(taps) for taps in offsets],
        pads=[*begin, *end],
        dilations=dilations,
    )


def _stacking_pays(channels: int, rows: dict[int, Taps], columns: dict[int, Taps], stride: tuple[int, int]) -> bool:
    """Decide between one convolution with all phases as output channels and one for each phase.

    Stacked, every phase pays for the union of all taps; apart, every phase's channels are rounded up to a block of 16.
    """

    def blocks(n: int) -> int:
        return -(-n // 16)

    apart = sum(len(r.taps) * len(c.taps) for r in rows.values() for c in columns.values()) * blocks(channels)
    union = [{offset for taps in axis.values() for offset in taps.offsets} for axis in (rows, columns)]
    stacked = np.prod([max(u) - min(u) + 1 for u in union]) * blocks(channels * stride[0] * stride[1])
    return bool(stacked <= apart)


def _stacked(
    b: Builder, m: GradientMap, rows: dict[int, Taps], columns: dict[int, Taps], stride: tuple[int, int]
) -> str:
    """Convolve g with all phases' kernels at once: [N, stride_h * stride_w * C, ...]."""
    ranges = []
    for axis in (rows, columns):
        offsets = [offset for taps in axis.values() for offset in taps.offsets]
        ranges.append(range(min(offsets), max(offsets) + 1))
    kernels = [
        _placed(
            b, _placed(b, m.weight, m.kernel[0], 2, ranges[0], rows.get(r)), m.kernel[1], 3, ranges[1], columns.get(c)
        )
        for r in range(stride[0])
        for c in range(stride[1])
    ]
    return _conv_exactly(b, m, b.emit("Concat", kernels, axis=0), [list(r) for r in ranges], [1, 1])


def _placed(b: Builder, weight: str, size: int, axis: int, offsets: range, taps: Taps | None) -> str:
    """Multiply the kernel along ``axis`` by the 0/1 matrix that puts each tap at its offset; absent taps give zeros."""
    matrix = np.zeros((size, len(offsets)))
    if taps is not None:
        for tap, offset in zip(taps.taps, taps.offsets, strict=True):
            matrix[tap, offset - offsets.start] = 1.0
    if axis == 3:
        return b.emit("MatMul", [weight, b.constant(matrix)])
    return b.emit("MatMul", [b.constant(matrix.T), weight])


@rule("ConvTranspose", constant_inputs=(1, 2))
def conv_transpose(op: Op, g: str) -> str:
    """Conv of g with the kernel as it stands: the two operators are each other's transpose."""
    shape = op.shape(1)
    kernel = [static(d) for d in shape[2:]]
    spatial = len(kernel)
    strides, dilations = list(op.attr("strides") or [1] * spatial), list(op.attr("dilations") or [1] * spatial)
    size = [static(d) for d in op.shape()[2:]]
    out = [static(d) for d in op.output_shape[2:]]
    begin = _transpose_begin(op, spatial, strides, dilations, kernel, size, out)
    groups = int(op.attr("group", 1))
    end = [
        (n - 1) * s + (k - 1) * d + 1 - o - b
        for n, s, k, d, o, b in zip(size, strides, kernel, dilations, out, begin, strict=True)
    ]
    if any(e < 0 for e in end):  # output padding beyond the last tap: those rows depend on the bias alone
        g = op.b.slice(
            g, list(range(2, 2 + spatial)), [0] * spatial, [o + min(0, e) for o, e in zip(out, end, strict=True)]
        )
    # [C, M / groups, ...] is, for the convolution from M to C channels, already [outputs, inputs / groups, ...]
    return op.b.emit(
        "Conv",
        [g, op.inputs[1]],
        group=groups,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=[*begin, *(max(0, e) for e in end)],
    )


def _transpose_begin(
    op: Op, spatial: int, strides: list[int], dilations: list[int], kernel: list[int], size: list[int], out: list[int]
) -> list[int]:
    auto = op.attr("auto_pad", "NOTSET")
    explicit = op.attr("output_shape")
    if auto in ("NOTSET", "") and not explicit:
        return list(op.attr("pads") or [0] * (2 * spatial))[:spatial]
    if auto == "VALID":
        return [0] * spatial
    output_padding = list(op.attr("output_padding") or [0] * spatial)
    begin = []
    for n, s, d, k, o, extra in zip(size, strides, dilations, kernel, out, output_padding, strict=True):
        total = s * (n - 1) + extra + (k - 1) * d + 1 - o
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return begin
