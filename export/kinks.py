"""Where a network's gradient jumps: the operators that decide, and how far each decision is from the other side.

A row of CROSSINGS is a function from a node and its inputs to *crossings*: for each element of the node's first input
the change that would carry it as far beyond the nearest kink as it is now before it, and infinity where there is none.
An element exactly on a kink gets infinity too: two implementations that both compute it exactly decide alike. Not so
where two different units tie in a race for a maximum: float32 may have rounded them to one value, and then one unit of
the last place decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Decision:
    """A node that decides: its attributes, the values of its inputs (None where left out), and its output's shape.

    ``elsewhere`` is the first input at other images close by, at which two units of one value part and two copies of
    one unit (overlapping windows make them) do not; without it all that tie are taken for copies.
    """

    attributes: Mapping[str, Any]
    inputs: Sequence[Array | None]
    output_shape: tuple[int, ...]
    elsewhere: Sequence[Array] = ()

    @property
    def x(self) -> Array:
        """The first input, in double precision."""
        return np.asarray(self.inputs[0], np.float64)

    def other(self, index: int) -> float | None:
        """Return a scalar input, or None where it is left out."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return None if value is None else float(value.reshape(-1)[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def beyond(x: Array, *kinks: float | Array | None) -> Array:
    """Return the crossings of known kinks, numbers or one for each element: twice the distance to the nearest."""
    distances = [np.broadcast_to(2 * (kink - x), x.shape) for kink in kinks if kink is not None]
    if not distances:
        return np.full(x.shape, np.inf)
    stacked = np.stack(distances)
    nearest = np.take_along_axis(stacked, np.abs(stacked).argmin(0)[None], 0)[0]
    return np.where((nearest == 0) | ~np.isfinite(nearest), np.inf, nearest)


def _zero(d: Decision) -> Array:
    return beyond(d.x, 0.0)


def _thresholded(d: Decision) -> Array:
    return beyond(d.x, d.attributes.get("alpha", 1.0))


def _elu(d: Decision) -> Array:
    """Elu is smooth at 0 for alpha = 1, its default."""
    return beyond(d.x, None if d.attributes.get("alpha", 1.0) == 1.0 else 0.0)


def _clip(d: Decision) -> Array:
    return beyond(d.x, d.other(1), d.other(2))


def _hard_sigmoid(d: Decision) -> Array:
    alpha, beta = d.attributes.get("alpha", 0.2), d.attributes.get("beta", 0.5)
    return beyond(d.x, -beta / alpha, (1 - beta) / alpha)


def _hard_swish(d: Decision) -> Array:
    return beyond(d.x, -3.0, 3.0)


def _two_sided(d: Decision) -> Array:
    """Max, Min and comparisons: where the first input meets another."""
    if d.x.shape != d.output_shape:
        return np.full(d.x.shape, np.inf)
    return beyond(d.x, *(None if b is None else np.asarray(b, np.float64) for b in d.inputs[1:]))


def _shrink(d: Decision) -> Array:
    limit = d.attributes.get("lambd", 0.5)
    return beyond(d.x, -limit, limit)


def _largest(sign: float) -> Callable[[Decision], Array]:
    """Return the crossings of ReduceMax (sign 1) or ReduceMin (sign -1): the others overtake."""

    def crossings(d: Decision) -> Array:
        axes = d.attributes.get("axes")
        if axes is None and len(d.inputs) > 1 and d.inputs[1] is not None:
            axes = d.inputs[1].tolist()
        shape = d.x.shape
        axes = sorted(int(a) % len(shape) for a in (range(len(shape)) if axes is None else axes))
        kept = [a for a in range(len(shape)) if a not in axes]
        order = [*kept, *axes]

        def rows(array: Array) -> Array:
            return sign * array.transpose(order).reshape(int(np.prod([shape[a] for a in kept])), -1)

        result = _overtaking(rows, d).reshape([shape[a] for a in order])
        return sign * result.transpose(np.argsort(order))

    return crossings


def _overtaking(rows: Callable[[Array], Array], d: Decision) -> Array:
    """Return, for each row of competitors, the changes that lift each above the largest by what it lacks.

    ``rows`` arranges an array like the first input as rows. Copies of the largest do not compete with it.
    """
    values = rows(d.x)
    first = values.argmax(1)[:, None]
    largest = np.take_along_axis(values, first, 1)
    copies = values == largest
    for other in map(rows, d.elsewhere):
        copies &= other == np.take_along_axis(other, first, 1)
    gap = largest - values
    change = np.where(gap > 0, 2 * gap, np.spacing(np.abs(largest).astype(np.float32)))
    # Zeros tie because a ReLU made them, exactly.
    no_race = copies | ~np.isfinite(gap) | ((gap == 0) & (largest == 0))
    return np.where(no_race, np.inf, change)


def _global_max_pool(d: Decision) -> Array:
    n, channels = d.x.shape[:2]
    return _overtaking(lambda array: array.reshape(n * channels, -1), d).reshape(d.x.shape)


def _max_pool(d: Decision) -> Array:
    """MaxPool over any number of axes: in every window the others overtake; an element takes its closest race."""
    x = d.x
    kernel = [int(k) for k in d.attributes["kernel_shape"]]
    rank = len(kernel)
    strides = [int(s) for s in d.attributes.get("strides") or [1] * rank]
    dilations = [int(s) for s in d.attributes.get("dilations") or [1] * rank]
    out = d.output_shape[2:]
    begin = _pool_begin(d, kernel, strides, dilations)
    reach = [(o - 1) * s + (k - 1) * e + 1 for o, s, k, e in zip(out, strides, kernel, dilations, strict=True)]
    sizes = zip(reach, begin, x.shape[2:], strict=True)
    padding = [(0, 0), (0, 0), *((b, max(0, r - b - n)) for r, b, n in sizes)]

    def padded(array: Array) -> Array:
        return np.pad(array, padding, constant_values=-np.inf)

    spans = tuple((k - 1) * e + 1 for k, e in zip(kernel, dilations, strict=True))
    every = [slice(0, (o - 1) * s + 1, s) for o, s in zip(out, strides, strict=True)]
    inside = [slice(None, None, e) for e in dilations]
    chosen = (slice(None), slice(None), *every, *inside)

    def windows(array: Array) -> Array:
        view = np.lib.stride_tricks.sliding_window_view(array, spans, axis=tuple(range(2, 2 + rank)))
        return view[chosen].reshape(-1, int(np.prod(kernel)))

    races = _overtaking(lambda array: windows(padded(array)), d)
    shape = [n + sum(more) for n, more in zip(x.shape, padding, strict=True)]
    result = np.full(int(np.prod(shape)), np.inf)
    position = np.arange(result.size).reshape(shape)
    np.minimum.at(result, windows(position).reshape(-1), races.reshape(-1))
    inner = tuple(slice(b, b + n) for (b, _), n in zip(padding, x.shape, strict=True))
    return result.reshape(shape)[inner]


def _pool_begin(d: Decision, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Return the padding before the image along each pooled axis."""
    rank = len(kernel)
    auto = d.attributes.get("auto_pad", b"NOTSET")
    if auto not in (b"SAME_UPPER", b"SAME_LOWER"):
        return [0] * rank if auto == b"VALID" else list(d.attributes.get("pads") or [0] * (2 * rank))[:rank]
    begin = []
    for n, o, s, k, e in zip(d.x.shape[2:], d.output_shape[2:], strides, kernel, dilations, strict=True):
        total = max(0, (o - 1) * s + (k - 1) * e + 1 - n)
        begin.append(total // 2 if auto == b"SAME_UPPER" else total - total // 2)
    return begin


CROSSINGS: dict[str, Callable[[Decision], Array]] = {
    "Abs": _zero,
    "Clip": _clip,
    "Elu": _elu,
    "GlobalMaxPool": _global_max_pool,
    "Greater": _two_sided,
    "GreaterOrEqual": _two_sided,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _zero,
    "Less": _two_sided,
    "LessOrEqual": _two_sided,
    "Max": _two_sided,
    "MaxPool": _max_pool,
    "Min": _two_sided,
    "PRelu": _zero,
    "ReduceMax": _largest(1.0),
    "ReduceMin": _largest(-1.0),
    "Relu": _zero,
    "Selu": _zero,
    "Shrink": _shrink,
    "ThresholdedRelu": _thresholded,
}
