"""Where a network's gradient jumps: the operators that decide, and which way each of their units decided.

A row of KINKS is a function from a node's values to its *decisions*, one for each unit: on which side of its kinks an
element lies, or which of several is the largest. Two decisions that differ are a jump of the gradient between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from export.windows import Windows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Decision:
    """A node that decides: its attributes, and the values of its inputs and its output, None where not known."""

    attributes: Mapping[str, Any]
    inputs: Sequence[Array | None]
    output: Array | None = None

    @property
    def x(self) -> Array:
        """The first input."""
        return np.asarray(self.inputs[0])

    @property
    def y(self) -> Array:
        """The output."""
        return np.asarray(self.output)

    def bound(self, index: int, default: float) -> Array:
        """Return an optional input that is a bound, or ``default`` where it is left out."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return np.asarray(default) if value is None else value


@dataclass(frozen=True)
class Kink:
    """A row: how an operator's units decide, and whether that is told from its output (else from its first input)."""

    decide: Callable[[Decision], Array]
    from_output: bool = False

    def operand(self, node: onnx.NodeProto) -> str:
        """Return the tensor from which a node's decisions are told."""
        name: str = node.output[0] if self.from_output else node.input[0]
        return name


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _relu(d: Decision) -> Array:
    return d.y > 0


def _sign(d: Decision) -> Array:
    return d.x > 0


def _three_signs(d: Decision) -> Array:
    return np.sign(d.x)


def _elu(d: Decision) -> Array:
    """Elu is smooth at 0 for alpha = 1, its default."""
    return np.zeros(d.x.shape, bool) if d.attributes.get("alpha", 1.0) == 1.0 else d.x > 0


def _thresholded(d: Decision) -> Array:
    return np.asarray(d.x > d.attributes.get("alpha", 1.0))


def _clip(d: Decision) -> Array:
    return _side(d.y, d.bound(1, -np.inf), d.bound(2, np.inf))


def _hard_sigmoid(d: Decision) -> Array:
    return _side(d.y, 0.0, 1.0)


def _hard_swish(d: Decision) -> Array:
    return _side(d.x, -3.0, 3.0)


def _shrink(d: Decision) -> Array:
    limit = d.attributes.get("lambd", 0.5)
    return np.asarray(np.abs(d.x) > limit)


def _side(x: Array, low: Array | float, high: Array | float) -> Array:
    """Return 0 up to ``low``, 1 strictly between, 2 from ``high``."""
    return (x > low) + np.asarray(x >= high, np.int8)


def _compared(compare: Callable[[Array, Array], Array]) -> Callable[[Decision], Array]:
    return lambda d: compare(d.x, np.asarray(d.inputs[1]))


def _first_largest(sign: float) -> Callable[[Decision], Array]:
    """Return the decisions of Max (sign 1) or Min (sign -1): which input it is."""
    return lambda d: (sign * np.stack(np.broadcast_arrays(*(np.asarray(each) for each in d.inputs)))).argmax(0)


def _reduced(sign: float) -> Callable[[Decision], Array]:
    """Return the decisions of ReduceMax (sign 1) or ReduceMin (sign -1): which element it is."""

    def largest(d: Decision) -> Array:
        axes = d.attributes.get("axes")
        if axes is None and len(d.inputs) > 1 and d.inputs[1] is not None:
            axes = d.inputs[1].tolist()
        rank = d.x.ndim
        axes = sorted(int(a) % rank for a in (range(rank) if axes is None else axes))
        kept = [a for a in range(rank) if a not in axes]
        rows = d.x.transpose([*kept, *axes]).reshape(*(d.x.shape[a] for a in kept), -1)
        return np.asarray((sign * rows).argmax(-1))

    return largest


def _global_max_pool(d: Decision) -> Array:
    return np.asarray(d.x.reshape(*d.x.shape[:2], -1).argmax(-1))


def _max_pool(d: Decision) -> Array:
    windows = Windows(d.x, d.attributes, -np.inf)
    values = windows.of(windows.padded)
    return np.asarray(values.reshape(*values.shape[: -len(windows.kernel)], -1).argmax(-1))


KINKS: dict[str, Kink] = {
    "Abs": Kink(_three_signs),
    "Clip": Kink(_clip, from_output=True),
    "Elu": Kink(_elu),
    "GlobalMaxPool": Kink(_global_max_pool),
    "Greater": Kink(_compared(np.greater)),
    "GreaterOrEqual": Kink(_compared(np.greater_equal)),
    "HardSigmoid": Kink(_hard_sigmoid, from_output=True),
    "HardSwish": Kink(_hard_swish),
    "LeakyRelu": Kink(_sign),
    "Less": Kink(_compared(np.less)),
    "LessOrEqual": Kink(_compared(np.less_equal)),
    "Max": Kink(_first_largest(1.0)),
    "MaxPool": Kink(_max_pool),
    "Min": Kink(_first_largest(-1.0)),
    "PRelu": Kink(_sign),
    "ReduceMax": Kink(_reduced(1.0)),
    "ReduceMin": Kink(_reduced(-1.0)),
    "Relu": Kink(_relu, from_output=True),
    "Selu": Kink(_sign),
    "Shrink": Kink(_shrink),
    "ThresholdedRelu": Kink(_thresholded),
}
