"""Graphs in double precision, on ONNX's reference evaluator: what a network computes where nothing rounds.

Weights are float32 numbers, exactly; everything after them is float64. A few operators are written anew here: the
evaluator loops over their windows in Python, or has forms of them wrong (in onnx 1.23 ``ceil_mode`` with paddings, LRN,
and LpNormalization of order 1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op

from export.gradients.observe import reads
from export.windows import Windows

Array = npt.NDArray[Any]
FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Double:
    """A model of which any tensors can be computed from any others."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = model.opset_import
        self._nodes = [_widened(node) for node in model.graph.node]
        self.constants = {t.name: widen(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self.tensors = {name for node in self._nodes for name in node.output}

    def run(self, wanted: Sequence[str], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensors ``wanted``, computed from the inputs and inner tensors ``given`` and from constants."""
        nodes = needed(self._nodes, wanted, given)
        read = set().union(*map(reads, nodes))
        feeds = {name: value for name, value in self.constants.items() if name in read or name in wanted}
        feeds.update({name: widen(value) for name, value in given.items()})
        graph = onnx.GraphProto(name="double")
        graph.node.extend(nodes)
        graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        evaluator = ReferenceEvaluator(onnx.ModelProto(graph=graph, opset_import=self._opsets), new_ops=OPERATORS)
        with np.errstate(all="ignore"):  # infinity and NaN are values like others
            return dict(zip(wanted, evaluator.run(list(wanted), feeds), strict=True))


def needed(nodes: Sequence[onnx.NodeProto], wanted: Collection[str], given: Collection[str]) -> list[onnx.NodeProto]:
    """Return the nodes, in their order, that compute the tensors ``wanted`` from those ``given``."""
    missing = set(wanted) - set(given)
    kept = []
    for node in reversed(nodes):
        if not missing.isdisjoint(node.output):
            missing |= reads(node) - set(given)
            kept.append(node)
    return kept[::-1]


def widen(array: Array) -> Array:
    """Return a floating-point array in double, any other as it is."""
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


def _widened(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that makes doubles where it made floating-point numbers of another type."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in FLOATING:
            attribute.i = TensorProto.DOUBLE
        elif attribute.name == "value" and attribute.t.data_type in FLOATING:
            attribute.t.CopyFrom(numpy_helper.from_array(widen(numpy_helper.to_array(attribute.t))))
        elif attribute.name in ("value_float", "value_floats"):
            value = np.asarray(onnx.helper.get_attribute_value(attribute), np.float64)
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(value)))
    return wide


class MaxPool(OpRun):
    """The largest of each window; the indices of the largest are not made."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        windows = Windows(x, attributes, -np.inf)
        return (windows.of(windows.padded).max(axis=tuple(range(-len(windows.kernel), 0))),)


class AveragePool(OpRun):
    """The mean of each window, over its elements inside the image or also over the declared padding."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        windows = Windows(x, attributes, 0.0)
        axes = tuple(range(-len(windows.kernel), 0))
        inside = np.ones((1, 1, *x.shape[2:]))
        counted = Windows(inside, attributes, 0.0).padded
        if attributes.get("count_include_pad"):  # what ceil_mode adds beyond the declared padding does not count
            declared = Windows(inside, {**attributes, "ceil_mode": 0}, 1.0).padded
            counted[tuple(slice(n) for n in declared.shape)] = declared
        return (windows.of(windows.padded).sum(axis=axes) / windows.of(counted).sum(axis=axes),)


_Resize = load_op("", "Resize", None)


class Resize(_Resize):  # type: ignore[misc, valid-type]
    """Whole copies of elements at once, the form in which gradient rules repeat; all else as the evaluator does it."""

    op_domain = ""

    def _run(self, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any) -> tuple[Array]:
        how = [attributes.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode", "axes")]
        if sizes is None and how == ["nearest", "asymmetric", "floor", None] and np.all(scales == np.floor(scales)):
            for axis, scale in enumerate(scales):
                x = np.repeat(x, int(scale), axis)
            return (x,)
        result: tuple[Array] = super()._run(x, roi, scales, sizes, **attributes)
        return result


class LRN(OpRun):
    """Each channel divided by a power of the squares around it."""

    op_domain = ""

    def _run(self, x: Array, *, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        around = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)]
        squares = np.lib.stride_tricks.sliding_window_view(np.pad(x * x, around), size, axis=1).sum(-1)
        return (x / (bias + alpha / size * squares) ** beta,)


class LpNormalization(OpRun):
    """Each vector along an axis divided by its norm, 0 where that is 0."""

    op_domain = ""

    def _run(self, x: Array, *, axis: int, p: int) -> tuple[Array]:
        norm = np.linalg.norm(x, p, axis=axis, keepdims=True)
        return (x / np.where(norm > 0, norm, 1.0),)


OPERATORS = [AveragePool, LRN, LpNormalization, MaxPool, Resize]
