"""Gradient rules of pooling. Max-pooling gives a window's gradient to its first maximum, as PyTorch does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from export.gradients.builder import STEEP, Array, Op, Phases, static
from export.gradients.registry import rule
from export.gradients.rules_conv import geometry, in_two_axes

# Stands for minus infinity in padding: below every activation, and finite so that differences with it are.
BELOW = -float(2**126)


class Window:
    """The geometry of a 2-D pooling node."""

    def __init__(self, op: Op) -> None:
        self.kernel = [int(k) for k in op.attr("kernel_shape")]
        self.strides, self.dilations, self.begin = geometry(op, 2, self.kernel)
        self.size = [static(d) for d in op.shape()[2:]]
        self.out = [static(d) for d in op.output_shape[2:]]
        self.channels = static(op.shape()[1])
        reach = zip(self.out, self.strides, self.kernel, self.dilations, self.size, self.begin, strict=True)
        # padding at the end so that a convolution of this geometry has the pooling's output size, ceil_mode included
        self.end = [(o - 1) * s + (k - 1) * d + 1 - n - b for o, s, k, d, n, b in reach]

    @property
    def padded(self) -> bool:
        """Whether a window reaches beyond the image."""
        return any(self.begin) or any(e > 0 for e in self.end)


@rule("MaxPool")
def max_pool(op: Op, g: str) -> Phases | str:
    """g to the first maximum of each window, assembled phase by phase without gather or scatter."""
    if len(op.attr("kernel_shape")) != 2:
        return in_two_axes(op, g, op.attr("kernel_shape"), max_pool)
    w = Window(op)
    b = op.b
    x, pads = op.inputs[0], [*w.begin, *(max(0, e) for e in w.end)]
    if w.padded and not _rectified(op):
        below = max(BELOW, float(np.finfo(b.float_type).min))
        x, pads = b.pad(x, [0, 0, *pads[:2]], [0, 0, *pads[2:]], below), [0, 0, 0, 0]
    shape = op.output_shape
    rest = g
    parts: dict[tuple[int, int], list[tuple[str, tuple[int, int]]]] = {}
    offsets = list(itertools.product(range(w.kernel[0]), range(w.kernel[1])))
    for i, j in offsets:
        one_hot = np.zeros(w.kernel)
        one_hot[i, j] = -1.0
        # The lag y - x_ij is 0 where the window's element (i, j) attains the maximum, and positive elsewhere.
        lag = op.add(b.depthwise(x, w.channels, one_hot, 0.0, w.strides, pads, w.dilations), op.output)
        hit = b.emit("HardSigmoid", [lag], alpha=-STEEP, beta=1.0)
        share = op.mul(rest, hit)
        position = [k * d - p for k, d, p in zip((i, j), w.dilations, w.begin, strict=True)]
        key = (position[0] % w.strides[0], position[1] % w.strides[1])
        shift = (position[0] // w.strides[0], position[1] // w.strides[1])
        parts.setdefault(key, []).append((share, shift))
        if (i, j) != offsets[-1]:
            rest = op.add(op.scaled(share, shape, -1.0), rest)
    return _assemble(op, w, parts)


def _rectified(op: Op) -> bool:
    """Whether the pooled tensor comes from a Relu.

    Then padding with 0 is as good as with minus infinity: a window whose maximum is 0 passes a gradient only to zeros,
    and the Relu's own rule drops it there.
    """
    return op.b.producer(op.inputs[0]) == "Relu"


def _assemble(op: Op, w: Window, parts: dict[tuple[int, int], list[tuple[str, tuple[int, int]]]]) -> Phases:
    """Shift each window element's gradient to the input row and column it belongs to, and add within each phase."""
    extent = [-(-n // s) for n, s in zip(w.size, w.strides, strict=True)]
    phases = {}
    for key, shares in parts.items():
        if key[0] >= w.size[0] or key[1] >= w.size[1]:
            continue
        phases[key] = op.b.sum([_shifted(op, w.channels, share, shift, w.out, extent) for share, shift in shares])
    return Phases((w.strides[0], w.strides[1]), op.shape(), phases)


def _shifted(op: Op, channels: int, x: str, shift: tuple[int, int], size: Sequence[int], extent: Sequence[int]) -> str:
    """Return x moved by ``shift`` rows and columns on a grid of ``extent``: out[u] = x[u - shift], zero outside."""
    if shift == (0, 0) and list(size) == list(extent):
        return x
    # A one-hot kernel reads x at u - shift: padding before the begin and after the end brings the size to `extent`.
    kernel, begin, end = [], [], []
    for by, n, e in zip(shift, size, extent, strict=True):
        lead, tail = max(0, by), max(0, e - by - n)
        length = n + lead + tail - e + 1
        kernel.append(length)
        begin.append(lead)
        end.append(tail)
    one_hot = np.zeros(kernel)
    one_hot[max(0, -shift[0]), max(0, -shift[1])] = 1.0
    return op.b.depthwise(x, channels, one_hot, pads=[*begin, *end])


@rule("AveragePool")
def average_pool(op: Op, g: str) -> Phases | str:
    """g divided by the window's size, spread over the window."""
    if len(op.attr("kernel_shape")) != 2:
        return in_two_axes(op, g, op.attr("kernel_shape"), average_pool)
    w = Window(op)
    b = op.b
    if op.attr("count_include_pad", 0) or not w.padded:
        inside = np.prod(w.kernel) * np.ones((1, 1, *w.out))
        if op.attr("count_include_pad", 0) and any(e > 0 for e in w.end):
            # rows that ceil_mode adds beyond the declared padding are not counted
            declared = [int(e) for e in (op.attr("pads") or [0] * 4)[2:]]
            inside = _window_counts(w, [n + p for n, p in zip(w.size, declared, strict=True)], include_begin=True)
    else:
        inside = _window_counts(w, w.size, include_begin=False)
    g = op.scaled(g, op.output_shape, 1 / inside.flat[0]) if np.ptp(inside) == 0 else op.mul(g, b.constant(1 / inside))
    rows = [_phase(i, w, 0) for i in range(w.kernel[0])]
    columns = [_phase(j, w, 1) for j in range(w.kernel[1])]
    extent = [-(-n // s) for n, s in zip(w.size, w.strides, strict=True)]
    parts = {}
    for r in sorted({phase for phase, _ in rows}):
        for c in sorted({phase for phase, _ in columns}):
            if r < w.size[0] and c < w.size[1]:
                shifts = [[s for p, s in axis if p == want] for axis, want in ((rows, r), (columns, c))]
                parts[(r, c)] = _box(op, w.channels, g, shifts, w.out, extent)
    return Phases((w.strides[0], w.strides[1]), op.shape(), parts)


def _phase(k: int, w: Window, axis: int) -> tuple[int, int]:
    position = k * w.dilations[axis] - w.begin[axis]
    return position % w.strides[axis], position // w.strides[axis]


def _box(op: Op, channels: int, g: str, shifts: list[list[int]], size: Sequence[int], extent: Sequence[int]) -> str:
    """Return the sum of g moved by every pair of row and column ``shifts``: one convolution with a kernel of ones."""
    kernel, begin, end, starts, ends = [], [], [], [], []
    ones = []
    for by, n, e in zip(shifts, size, extent, strict=True):
        low, high = min(by), max(by)
        lead, last = max(0, high), e - 1 - low  # g is read from -high to last
        starts.append(max(0, -high))
        ends.append(min(n, last + 1))
        begin.append(lead)
        end.append(max(0, last - (n - 1)))
        taps = np.zeros(high - low + 1)
        taps[[high - s for s in by]] = 1.0
        kernel.append(len(taps))
        ones.append(taps)
    if starts != [0, 0] or ends != list(size):
        g = op.b.slice(g, [2, 3], starts, ends)
    return op.b.depthwise(g, channels, np.outer(*ones), pads=[*begin, *end])


def _window_counts(w: Window, limit: Sequence[int], include_begin: bool) -> Array:
    """Return how many elements of each window are counted, [1, 1, out_h, out_w]."""
    counts = []
    for axis in range(2):
        starts = np.arange(w.out[axis]) * w.strides[axis] - w.begin[axis]
        taps = starts[:, None] + np.arange(w.kernel[axis]) * w.dilations[axis]
        low = -w.begin[axis] if include_begin else 0
        counts.append(((taps >= low) & (taps < limit[axis])).sum(axis=1))
    return np.asarray(np.outer(*counts), float)[None, None]


@rule("GlobalAveragePool")
def global_average_pool(op: Op, g: str) -> str:
    """g / (H W) at every position."""
    size = [static(d) for d in op.shape()[2:]]
    return op.b.repeat(op.mul(g, 1 / float(np.prod(size))), op.shape())


@rule("GlobalMaxPool")
def global_max_pool(op: Op, g: str) -> str:
    """g to the first maximum of each channel."""
    shape = op.shape()
    size = [static(d) for d in shape[2:]]
    count = int(np.prod(size))
    channels = static(shape[1])
    flat = op.b.reshape(op.inputs[0], [None if shape[0] is None else shape[0], channels, count])
    first = op.b.emit("ArgMax", [flat], axis=2, keepdims=1, select_last_index=0)
    hit = op.b.emit("Equal", [op.b.constant(np.arange(count).reshape(1, 1, count), np.int64), first])
    mask = op.b.reshape(op.b.cast(hit, op.b.dtype), [None if shape[0] is None else shape[0], channels, *size])
    return op.mul(g, mask)
