"""Conditions under which TensorRT takes an operator: one small function each, listed by operator in CONDITIONS.

A condition looks at one node and returns a :class:`Refusal`, or None where the node is fine. Sources as in
``export.tensorrt_support``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from export.tensorrt_graph import Refusal, View, older

Condition = Callable[[View], "Refusal | None"]


def constant_input(index: int, what: str) -> Condition:
    """Refuse a node whose input ``index`` is not constant when the engine is built."""

    def condition(v: View) -> Refusal | None:
        name = v.input(index)
        if not name or v.graph.known(name):
            return None
        return Refusal("constant-input", f"{what} {name!r} must be constant; export with a fixed input size")

    return condition


def first_output_only(v: View) -> Refusal | None:
    """Only the first output exists: MaxPool has no Indices, LayerNormalization no Mean."""
    extra = [name for name in v.node.output[1:] if name]
    return Refusal("outputs", f"only the first output is supported, {extra[0]!r} is used") if extra else None


def no_dilation(v: View) -> Refusal | None:
    """Pooling knows no dilation."""
    dilations = list(v.attributes.get("dilations", []))
    if all(d == 1 for d in dilations):
        return None
    return Refusal("pool-dilation", f"dilations {dilations} are not supported; use strides of 1 and Slice")


def spatial_axes(v: View) -> Refusal | None:
    """Convolution and pooling run over one (as two), two or three axes."""
    rank = v.rank(0)
    allowed = (3, 4, 5) if "Conv" in v.node.op_type else (4, 5)
    if rank is None or rank in allowed:
        return None
    return Refusal("spatial-axes", f"{rank - 2} spatial axes are not supported; reshape to two")


def no_negative_pads(v: View) -> Refusal | None:
    """Padding is never negative."""
    pads = list(v.attributes.get("pads", []))
    return Refusal("negative-pads", f"pads {pads} are negative; use Slice") if any(p < 0 for p in pads) else None


def kernel(v: View) -> Refusal | None:
    """Convolve with stored kernels; others take the parser's path for dynamic kernels.

    A kernel that nodes compute from constants is folded by the builder, which NVIDIA's documents do not promise.
    """
    name = v.input(1)
    if name in v.graph.initializers:
        return None
    if name in v.graph.computed:
        message = (
            f"kernel {name!r} is computed from constants; if the builder does not fold it: export.fold.fold_constants"
        )
        return Refusal("computed-kernel", message, severity="note")
    return Refusal(
        "dynamic-kernel", f"kernel {name!r} is computed at run time, for which few tactics exist", severity="note"
    )


def no_reduction(v: View) -> Refusal | None:
    """Scatter without reduction; ScatterElements with one needs a plugin, ScatterND ignores or refuses it."""
    reduction = v.text("reduction", "none")
    if reduction == "none":
        return None
    return Refusal("scatter-reduction", f"reduction {reduction!r} is not supported; use MatMul with a 0/1 matrix")


RESIZE_MODES = ("nearest", "linear")
RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


def resize(v: View) -> Refusal | None:
    """Nearest and linear, stretched, without antialiasing, over all axes."""
    mode = v.text("mode", "nearest")
    coordinates = v.text("coordinate_transformation_mode", "half_pixel")
    policy = v.text("keep_aspect_ratio_policy", "stretch")
    axes = list(v.attributes.get("axes", []))
    rank = v.rank(0)
    faults = {
        f"mode {mode!r}": mode not in RESIZE_MODES,
        f"coordinate_transformation_mode {coordinates!r}": coordinates not in RESIZE_COORDINATES,
        f"keep_aspect_ratio_policy {policy!r}": policy != "stretch",
        "antialias": bool(v.attributes.get("antialias", 0)),
        f"axes {axes} with scales": bool(axes) and bool(v.input(2)) and axes != list(range(rank or 0)),
    }
    found = [fault for fault, present in faults.items() if present]
    return Refusal("resize", f"{found[0]} is not supported; use nearest or linear over all axes") if found else None


def zero_point(v: View) -> Refusal | None:
    """Quantisation is symmetric: zero points are constant zeros."""
    name = v.input(2)
    if not name:
        return None
    value = v.value(2)
    if value is not None and not np.any(value):
        return None
    return Refusal("zero-point", f"zero point {name!r} must be a constant 0; quantise symmetrically to int8")


def signed(v: View) -> Refusal | None:
    """The quantised type is a signed one; without a zero point it would be uint8."""
    value = v.value(2)
    output_type = v.attributes.get("output_dtype", 0)
    if (value is not None and value.dtype == np.uint8) or (value is None and not v.input(2) and not output_type):
        return Refusal("unsigned", "quantises to uint8, which only network inputs may be; give an int8 zero point of 0")
    return None


def inference_mode(v: View) -> Refusal | None:
    """BatchNormalization and Dropout as at inference."""
    training = bool(v.attributes.get("training_mode", 0))
    flag = v.value(2) if v.node.op_type == "Dropout" else None
    if training or (flag is not None and bool(np.any(flag))):
        return Refusal("training", "is in training mode; export the model in eval()")
    return None


def lower_case(v: View) -> Refusal | None:
    """Einsum's parser reads lower-case letters alone."""
    equation = v.text("equation", "")
    wrong = {letter for letter in equation if not (letter.islower() and letter.isascii()) and letter not in "->., "}
    return Refusal("einsum", f"equation {equation!r}: use lower-case letters") if wrong else None


def norm_order(v: View) -> Refusal | None:
    """LpNormalization and LpPool know p = 1 and p = 2."""
    p = v.attributes.get("p", 2)
    return None if p in (1, 2) else Refusal("norm-order", f"p = {p} is not supported; 1 and 2 are")


def top_k(v: View) -> Refusal | None:
    """TopK sorts, and K is below 3840."""
    if not v.attributes.get("sorted", 1):
        return Refusal("top-k", "sorted must be 1")
    k = v.value(1)
    return Refusal("top-k", f"K = {int(k.max())} is not below 3840") if k is not None and int(k.max()) >= 3840 else None


def pad_axes(v: View) -> Refusal | None:
    """Pad takes axes as a tensor from 10.4 on."""
    if v.input(3) and older(v.version, "10.4"):
        return Refusal("pad-axes", "the axes input is supported from 10.4 on; give pads for every axis")
    return None


def cast_target(v: View) -> Refusal | None:
    """Cast goes to the types that networks compute with, or to uint8 for a network output."""
    target = TensorProto.DataType.Name(v.attributes["to"]).lower()
    if target in ("float", "float16", "bfloat16", "int32", "int64", "bool", "uint8"):
        return None
    return Refusal("cast", f"cannot cast to {target}; use float, float16, int32, int64 or bool")


def shape_arithmetic(v: View) -> Refusal | None:
    """Only the sizes of inputs are unknown at export; those of inner tensors follow from them."""
    name = v.input(0)
    if name in v.graph.inputs:
        return None
    return Refusal(
        "shape-arithmetic", f"reads the shape of {name!r} at run time; export with a fixed input size", severity="note"
    )


def plain_constant(v: View) -> Refusal | None:
    """Constants are dense numbers."""
    wrong = {"sparse_value", "value_string", "value_strings"} & set(v.attributes)
    return Refusal("constant", f"{wrong.pop()} is not supported; store a dense tensor") if wrong else None


_POOLING = (no_dilation, spatial_axes)
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
_QUANTISATION = (zero_point, constant_input(1, "scale"))

CONDITIONS: dict[str, tuple[Condition, ...]] = {
    "AveragePool": _POOLING,
    "BatchNormalization": (first_output_only, inference_mode),
    "Cast": (cast_target,),
    "Constant": (plain_constant,),
    "Conv": (spatial_axes, no_negative_pads, kernel),
    "ConvTranspose": (spatial_axes, no_negative_pads, kernel),
    "CumSum": (constant_input(1, "axis"),),
    "DequantizeLinear": _QUANTISATION,
    "Dropout": (first_output_only, inference_mode, constant_input(2, "training mode")),
    "Einsum": (lower_case,),
    "LayerNormalization": (first_output_only,),
    "LpNormalization": (norm_order,),
    "LpPool": (no_dilation, norm_order),
    "MaxPool": (*_POOLING, first_output_only),
    "OneHot": (constant_input(1, "depth"),),
    "Pad": (pad_axes,),
    "QuantizeLinear": (*_QUANTISATION, signed),
    **dict.fromkeys(_REDUCTIONS, (constant_input(1, "axes"),)),
    "Resize": (resize,),
    "ScatterElements": (no_reduction,),
    "ScatterND": (no_reduction,),
    "Shape": (shape_arithmetic,),
    "Size": (shape_arithmetic,),
    "Squeeze": (constant_input(1, "axes"),),
    "TopK": (top_k,),
    "Unsqueeze": (constant_input(1, "axes"),),
}
