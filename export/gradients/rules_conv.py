"""Gradient rules of convolutions.

The gradient of a convolution with respect to its input is again a convolution, of the output's gradient with the
flipped kernel and its channel axes exchanged. Engines run Conv far faster than ConvTranspose, so that form is emitted;
the flip is a Slice of the weight, which engines fold when they load the graph: weights are stored once.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.errors import UnsupportedOperatorError
from export.gradients.builder import Builder, Op, Phases
from export.gradients.registry import rule


def _geometry(op: Op, spatial: int, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
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
        size, out = _static(op, op.shape()[2 + axis]), _static(op, op.output_shape[2 + axis])
        total = max(0, (out - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size)
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return strides, dilations, begin


def _static(op: Op, size: int | None) -> int:
    if size is None:
        raise UnsupportedOperatorError(
            f"{op.node.op_type} {op.node.name or op.output!r} runs over an axis that follows the batch"
        )
    return size


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


@rule("Conv", constant_inputs=(1, 2))
def conv(op: Op, g: str) -> Phases:
    """Conv of g with the flipped kernel; for strides, one small convolution for each phase of the input grid."""
    shape = op.shape(1)
    kernel = [_static(op, d) for d in shape[2:]]
    if len(kernel) == 1:
        raise UnsupportedOperatorError(f"Conv {op.node.name or op.output!r} is one-dimensional; reshape it to two dimensions")
    strides, dilations, begin = _geometry(op, len(kernel), kernel)
    size = [_static(op, d) for d in op.shape()[2:]]
    out = [_static(op, d) for d in op.output_shape[2:]]
    groups = int(op.attr("group", 1))
    weight = _swap_channels(op.b, op.inputs[1], [_static(op, d) for d in shape], groups)
    rows = _phase_taps(kernel[0], strides[0], dilations[0], begin[0])
    columns = _phase_taps(kernel[1], strides[1], dilations[1], begin[1])
    parts = {}
    for r, row in rows.items():
        for c, column in columns.items():
            taps = _taps(op.b, _taps(op.b, weight, kernel[0], 2, row.taps), kernel[1], 3, column.taps)
            extent = [-(-size[0] // strides[0]), -(-size[1] // strides[1])]
            parts[(r, c)] = _phase_conv(op, g, taps, (row, column), extent, out, groups)
    return Phases((strides[0], strides[1]), op.shape(), parts)


class _Taps:
    """Kernel positions that reach one phase of the input grid, and where they read the output's gradient.

    Input row u * stride + phase receives ``sum over taps of weight[tap] * g[u + offset(tap)]`` with descending taps, so
    that the offsets ascend from ``first`` in steps of ``dilation``.
    """

    def __init__(self, taps: list[int], first: int, dilation: int) -> None:
        self.taps = taps
        self.first = first
        self.dilation = dilation


def _phase_taps(kernel: int, stride: int, dilation: int, begin: int) -> dict[int, _Taps]:
    """Sort the kernel positions by the input phase that they reach: input = stride * output - begin + dilation * tap."""
    phases: dict[int, _Taps] = {}
    for phase in range(stride):
        taps = [k for k in reversed(range(kernel)) if (phase + begin - dilation * k) % stride == 0]
        if not taps:
            continue
        offsets = [(phase + begin - dilation * k) // stride for k in taps]
        phases[phase] = _Taps(taps, offsets[0], offsets[1] - offsets[0] if len(taps) > 1 else 1)
    return phases


def _phase_conv(
    op: Op, g: str, weight: str, taps: tuple[_Taps, _Taps], extent: list[int], out: list[int], groups: int
) -> str:
    """Convolve g with one phase's kernel so that exactly ``extent`` rows and columns come out.

    A convolution pads at least by 0; where the first tap reads beyond the begin, or more than the rows needed would come
    out, g is sliced first.
    """
    begin, end, starts, ends = [], [], [0, 0], list(out)
    for axis, tap in enumerate(taps):
        last = extent[axis] - 1 + tap.first + tap.dilation * (len(tap.taps) - 1)  # last row of g that is read
        begin.append(max(0, -tap.first))
        end.append(max(0, last - (out[axis] - 1)))
        starts[axis] = max(0, tap.first)
        ends[axis] = min(out[axis], last + 1)
    if starts != [0, 0] or ends != list(out):
        g = op.b.slice(g, [2, 3], starts, ends)
    return op.b.emit(
        "Conv",
        [g, weight],
        group=groups,
        kernel_shape=[len(t.taps) for t in taps],
        pads=[*begin, *end],
        dilations=[t.dilation for t in taps],
    )


@rule("ConvTranspose", constant_inputs=(1, 2))
def conv_transpose(op: Op, g: str) -> str:
    """Conv of g with the kernel as it stands: the two operators are each other's transpose."""
    shape = op.shape(1)
    kernel = [_static(op, d) for d in shape[2:]]
    spatial = len(kernel)
    strides, dilations = list(op.attr("strides") or [1] * spatial), list(op.attr("dilations") or [1] * spatial)
    size = [_static(op, d) for d in op.shape()[2:]]
    out = [_static(op, d) for d in op.output_shape[2:]]
    begin = _transpose_begin(op, spatial, strides, dilations, kernel, size, out)
    groups = int(op.attr("group", 1))
    end = [
        (n - 1) * s + (k - 1) * d + 1 - o - b
        for n, s, k, d, o, b in zip(size, strides, kernel, dilations, out, begin, strict=True)
    ]
    if any(e < 0 for e in end):  # output padding beyond the last tap: those rows depend on the bias alone
        g = op.b.slice(g, list(range(2, 2 + spatial)), [0] * spatial, [o + min(0, e) for o, e in zip(out, end, strict=True)])
    # the kernel [C, M / groups, ...] is, for the convolution from M to C channels, already [outputs, inputs / groups, ...]
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
