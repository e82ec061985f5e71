"""Emitting ONNX nodes: unique names, shared constants, and the shapes of the forward tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int | None, ...]  # None marks a dimension that follows the batch
Array = npt.NDArray[Any]

# A power of two, so that products with it are exact: clip(STEEP * z, 0, 1) is 1 for z > 0 and 0 for z <= 0, for every
# float32 difference that activations can produce. See `Op.step` for why a mask is written that way.
STEEP = float(2**100)


class UnsupportedCaseError(Exception):
    """Raised by a rule for a node that it has no gradient for: why, and what to do. The walk adds which node."""


def static(size: int | None) -> int:
    """Return the size of an axis that a rule needs to know; raise UnsupportedCaseError where it follows the batch."""
    if size is None:
        raise UnsupportedCaseError("it works along an axis that follows the batch; keep the images of a batch apart")
    return size


def keeps_batch(source: Sequence[int | None], target: Sequence[int | None]) -> bool:
    """Tell whether a reshape from ``source`` to ``target`` leaves the leading axis, the batch, alone."""
    if not source or not target or source[0] is not None or target[0] is not None:
        return False
    rest = [*source[1:], *target[1:]]
    return None not in rest and np.prod(source[1:]) == np.prod(target[1:])  # type: ignore[arg-type]


def meant(stored: float) -> float:
    """Return the number behind an attribute, which ONNX stores as float32: 1/6 for 0.16666667, 0.01 for 0.0099999998.

    Rounded to float32 it is the stored value again; only models in double see the difference.
    """
    simple = float(Fraction(stored).limit_denominator(1000)) if np.isfinite(stored) else stored
    return simple if np.float32(simple) == np.float32(stored) else float(str(np.float32(stored)))


@dataclass(frozen=True)
class Phases:
    """A gradient on a strided grid: ``parts[(r, c)]`` holds the rows r, r + stride, ... and columns c, c + stride, ...

    ``shape`` is the full [N, C, H, W]. Missing parts are zero. Strided convolutions and poolings make them; adding
    two of them part by part before interleaving saves an interleave for each residual branch.
    """

    stride: tuple[int, int]
    shape: Shape
    parts: dict[tuple[int, int], str] = field(default_factory=dict)


class Builder:
    """A growing list of nodes and initializers on top of a prepared forward graph."""

    def __init__(
        self,
        shapes: dict[str, Shape],
        constants: dict[str, Array],
        dtype: int,
        opset: int,
        producers: dict[str, str],
        batch: str | int,
    ) -> None:
        self.shapes = shapes
        self.constants = constants
        self.dtype = dtype
        self.opset = opset
        self.batch = batch
        self.scope = "seed"  # the forward operator under differentiation: it names what is emitted, for profiles
        self.value_info: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._producers = producers  # tensor -> operator type
        self._taken = set(shapes)
        self._shared: dict[tuple[Any, ...], str] = {}
        self._count = 0

    @property
    def float_type(self) -> np.dtype[Any]:
        """The model's floating-point type as a NumPy dtype."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.dtype))

    def producer(self, name: str) -> str:
        """Return the operator that computes forward tensor ``name``, or an empty string."""
        return self._producers.get(name, "")

    def fresh(self, hint: str) -> str:
        """Return a tensor or node name that nothing in the graph bears yet."""
        while True:
            self._count += 1
            name = f"grad/{self.scope}/{hint}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def emit(self, operator: str, inputs: Sequence[str], outputs: int = 1, /, **attributes: Any) -> str:
        """Append a node and return the name of its first output; the others are that name + ``:1`` ...

        The same operator on the same inputs with the same attributes is emitted once and shared.
        """
        key = (operator, tuple(inputs), outputs, repr(sorted(attributes.items())))
        if key not in self._shared:
            name = self.fresh(operator)
            names = [name, *(f"{name}:{i}" for i in range(1, outputs))]
            self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
            self._shared[key] = name
        return self._shared[key]

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Return the name of an initializer holding ``value``; equal constants are stored once.

        ``dtype`` defaults to the model's floating-point type.
        """
        array = np.asarray(value, dtype=dtype or self.float_type)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            name = self.fresh("const")
            self.initializers.append(numpy_helper.from_array(array, name))
            self.constants[name] = array
            self._shared[key] = name
        return self._shared[key]

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of an int64 vector."""
        return self.constant(list(values), np.int64)

    # Operators whose signature changed between opset 13 and the newest are wrapped here; rules never test versions.

    def reduce(self, operator: str, x: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """Emit ReduceSum, ReduceMean, ReduceMax ... over ``axes``, in the form that the opset has."""
        if not axes:
            return x
        if operator == "ReduceSum" or self.opset >= 18:
            return self.emit(operator, [x, self.ints(axes)], keepdims=int(keepdims))
        return self.emit(operator, [x], axes=list(axes), keepdims=int(keepdims))

    def cast(self, x: str, dtype: int) -> str:
        """Emit a Cast to an ONNX element type."""
        return self.emit("Cast", [x], to=dtype)

    def reshape(
        self, x: str, shape: Sequence[int | None], *, source: Shape | None = None, like: str | None = None
    ) -> str:
        """Reshape to ``shape`` with at most one None (the batch); with more, to the runtime shape of tensor ``like``.

        Where ``source``, x's shape, is given, an axis that stays the batch is copied rather than inferred: engines
        then know that it is the same axis, which keeps onnxruntime's blocked layout across the graph.
        """
        dynamic = sum(d is None for d in shape)
        if dynamic > 1 or (dynamic == 0 and 0 in shape):
            if like is None:
                raise UnsupportedCaseError("more than one axis follows the batch; fold the batch into one axis only")
            return self.emit("Reshape", [x, self.emit("Shape", [like])])
        sizes = [-1 if d is None else d for d in shape]
        if source is not None and keeps_batch(source, shape):
            sizes[0] = 0
        return self.emit("Reshape", [x, self.ints(sizes)])

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """Emit a Transpose, or nothing for the identity."""
        return x if list(perm) == list(range(len(perm))) else self.emit("Transpose", [x], perm=list(perm))

    def slice(
        self,
        x: str,
        axes: Sequence[int],
        starts: Sequence[int],
        ends: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """Emit a Slice with constant bounds."""
        bounds = [self.ints(starts), self.ints(ends), self.ints(axes)]
        return self.emit("Slice", [x, *bounds, *([self.ints(steps)] if steps else [])])

    def pad(self, x: str, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> str:
        """Emit a constant Pad with ``begin`` and ``end`` amounts for every axis, or nothing where all are zero."""
        if not any(begin) and not any(end):
            return x
        return self.emit("Pad", [x, self.ints([*begin, *end]), self.constant(value)], mode="constant")

    def clip(self, x: str, low: float, high: float) -> str:
        """Emit a Clip with constant bounds."""
        return self.emit("Clip", [x, self.constant(low), self.constant(high)])

    def depthwise(
        self,
        x: str,
        channels: int,
        kernel: Array,
        bias: float = 0.0,
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
    ) -> str:
        """Emit a convolution of every channel of ``x`` [N, C, H, W] with the same ``kernel`` [kh, kw]."""
        weight = self.constant(np.broadcast_to(kernel, (channels, 1, *kernel.shape)))
        inputs = [x, weight, *([self.constant(np.full(channels, bias))] if bias else [])]
        return self.emit(
            "Conv",
            inputs,
            group=channels,
            kernel_shape=list(kernel.shape),
            strides=list(strides),
            pads=list(pads),
            dilations=list(dilations),
        )

    def sum(self, terms: Sequence[str]) -> str:
        """Add tensors of one shape, pairwise: engines fuse Add into the convolution before it, not Sum."""
        total = terms[0]
        for term in terms[1:]:
            total = self.emit("Add", [total, term])
        return total

    def interleave(self, phases: Phases) -> str:
        """Return the full tensor of a :class:`Phases`.

        With the channels last, columns and then rows interleave by concatenating contiguous runs, several times faster
        than DepthToSpace; onnxruntime merges the transposes into its change of layout.
        """
        sh, sw = phases.stride
        if (sh, sw) == (1, 1):
            return phases.parts[(0, 0)]
        channels, height, width = (d or 0 for d in phases.shape[1:])
        parts = dict(phases.parts)
        if len(parts) < sh * sw:
            zero = self.emit("Mul", [next(iter(parts.values())), self.constant(0.0)])
            parts = {(r, c): parts.get((r, c), zero) for r in range(sh) for c in range(sw)}
        # [N, C * sw, rows, columns] becomes [N, rows, columns, sw * C], which in memory is [N, rows, columns * sw, C]
        last = [0, 2, 3, 1]
        strips = [
            self.transpose(self.emit("Concat", [parts[(r, c)] for c in range(sw)], axis=1), last) for r in range(sh)
        ]
        stacked = self.emit("Concat", strips, axis=2)  # in memory [N, rows, sh, columns * sw, C]
        rows, columns = -(-height // sh), -(-width // sw)
        full = self.emit("Reshape", [stacked, self.ints([0, rows * sh, columns * sw, channels])])
        full = self._crop(full, (1, 2), height, width, phases.stride)
        return self.anchor(self.transpose(full, [0, 3, 1, 2]), phases.shape)

    def depth_to_space(self, stacked: str, stride: tuple[int, int], shape: Shape) -> str:
        """Interleave phases stacked as channels (row phase, column phase, channel) and crop to ``shape``."""
        sh, sw = stride
        height, width = (d or 0 for d in shape[2:])
        if sh == sw:
            full = self.emit("DepthToSpace", [stacked], blocksize=sh)
        else:
            rows, columns = -(-height // sh), -(-width // sw)
            grid = self.emit("Reshape", [stacked, self.ints([0, sh, sw, -1, rows, columns])])
            grid = self.transpose(grid, [0, 3, 4, 1, 5, 2])
            full = self.emit("Reshape", [grid, self.ints([0, -1, rows * sh, columns * sw])])
        return self.anchor(self._crop(full, (2, 3), height, width, stride), shape)

    def _crop(self, x: str, axes: tuple[int, int], height: int, width: int, stride: tuple[int, int]) -> str:
        """Cut the rows and columns that interleaving made beyond an odd size."""
        cut = [(axis, n) for axis, n, s in zip(axes, (height, width), stride, strict=True) if n % s]
        if not cut:
            return x
        return self.slice(x, [axis for axis, _ in cut], [0] * len(cut), [n for _, n in cut])

    def repeat(self, x: str, shape: Shape) -> str:
        """Repeat x [N, C, 1, 1] over the rows and columns of ``shape``; others are expanded."""
        if not blocked(shape):
            return self.emit("Expand", [x, self.ints([1 if d is None else d for d in shape])])
        anchored = self.anchor(x, (*shape[:2], 1, 1))
        scales = self.constant([1, 1, shape[2], shape[3]], np.float32)
        repeated = self.emit(
            "Resize",
            [anchored, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        self.declare(repeated, shape)  # shape inference does not carry the batch's name through Resize
        return repeated

    def spatial_sum(self, x: str, shape: Shape) -> str:
        """Sum x of ``shape`` [N, C, H, W] over rows and columns, keeping the axes."""
        if not blocked(shape):
            return self.reduce("ReduceSum", x, [2, 3])
        pixels = float((shape[2] or 0) * (shape[3] or 0))
        total = self.emit("Mul", [self.emit("GlobalAveragePool", [x]), self.constant(pixels)])
        self.shapes[total] = (*shape[:2], 1, 1)
        return total

    def declare(self, name: str, shape: Shape) -> None:
        """Record a tensor's shape in the graph, None standing for the batch."""
        dims = [self.batch if d is None else d for d in shape]
        if all(info.name != name for info in self.value_info):
            self.value_info.append(helper.make_tensor_value_info(name, self.dtype, dims))

    def anchor(self, x: str, shape: Shape) -> str:
        """Bring a feature map that was not made by a convolution into onnxruntime's blocked layout.

        A depthwise convolution with ones costs one pass; without it every Mul and Add that meets ``x`` would take its
        other, blocked, operand out of that layout and back.
        """
        if not blocked(shape):
            return x
        return self.depthwise(x, shape[1] or 0, np.ones((1, 1)))


def blocked(shape: Shape) -> bool:
    """Tell whether onnxruntime's CPU provider keeps a tensor of this shape in its layout [N, C / 16, H, W, 16]."""
    return len(shape) == 4 and shape[1] is not None and shape[1] >= 16 and None not in shape[2:]


class Op:
    """One forward node under differentiation: its attributes, shapes and constants, and the builder to emit with."""

    def __init__(self, node: onnx.NodeProto, builder: Builder, grads: Sequence[str | None] = ()) -> None:
        self.node = node
        self.b = builder
        self.grads = grads  # of every output; None where no gradient arrived
        self.inputs = list(node.input)
        self.output = node.output[0]
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value (strings decoded, numbers as meant), or ``default``."""
        value = self._attributes.get(name, default)
        if isinstance(value, float):
            return meant(value)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        """Tell whether optional input ``index`` is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def shape(self, index: int = 0) -> Shape:
        """Return the shape of input ``index``."""
        return self.b.shapes[self.inputs[index]]

    @property
    def output_shape(self) -> Shape:
        """The shape of the first output."""
        return self.b.shapes[self.output]

    def constant(self, index: int) -> Array | None:
        """Return the value of input ``index`` if it is known when the graph is built, else None."""
        return self.b.constants.get(self.inputs[index]) if self.has(index) else None

    def axes(self, index: int = 1) -> list[int]:
        """Return the reduction or squeeze axes, non-negative: from the attribute or from constant input ``index``."""
        given = self.attr("axes")
        if given is None and self.has(index):
            value = self.constant(index)
            given = None if value is None else value.tolist()
        rank = len(self.shape())
        if not given:
            return [] if self.attr("noop_with_empty_axes", 0) else list(range(rank))
        return sorted(int(axis) % rank for axis in np.atleast_1d(given))

    def step(self, x: str, shape: Shape | None = None, *, scale: float = 1.0, offset: float = 0.0) -> str:
        """Emit 1 where scale * x + offset > 0 and 0 elsewhere, as floating point.

        For feature maps this is a HardSigmoid with a huge power of two as its slope: exact, and the one form that
        onnxruntime's CPU provider keeps in its blocked layout, where Greater or Sign would cost two reorders of the
        tensor. ``shape`` is x's, needed where x is no forward tensor.
        """
        if not blocked(shape or self.b.shapes[x]):
            scaled = x if scale == 1.0 else self.mul(x, scale)
            mask = self.greater(scaled if offset == 0.0 else self.add(scaled, offset), 0.0)
            return self.b.cast(mask, self.b.dtype)
        return self.b.emit("HardSigmoid", [x], alpha=scale * STEEP, beta=offset * STEEP)

    def scaled(self, x: str, shape: Shape, scale: float, offset: float = 0.0) -> str:
        """Emit scale * x + offset; for feature maps as a 1x1 depthwise convolution: it keeps the blocked layout."""
        if not blocked(shape):
            x = x if scale == 1.0 else self.mul(x, scale)
            return x if offset == 0.0 else self.add(x, offset)
        return self.b.depthwise(x, shape[1] or 0, np.full((1, 1), scale), offset)

    def masked(self, g: str, x: str) -> str:
        """Emit g where forward tensor ``x`` is positive, 0 elsewhere."""
        if not blocked(self.b.shapes[x]):
            return self.where(self.greater(x, 0.0), g, 0.0)
        return self.mul(g, self.step(x))

    # Shorthands that read like the formula.

    def mul(self, a: str, b: str | float) -> str:
        """Emit a * b."""
        return self.b.emit("Mul", [a, self._name(b)])

    def add(self, a: str, b: str | float) -> str:
        """Emit a + b."""
        return self.b.emit("Add", [a, self._name(b)])

    def sub(self, a: str | float, b: str | float) -> str:
        """Emit a - b."""
        return self.b.emit("Sub", [self._name(a), self._name(b)])

    def div(self, a: str | float, b: str | float) -> str:
        """Emit a / b."""
        return self.b.emit("Div", [self._name(a), self._name(b)])

    def neg(self, a: str) -> str:
        """Emit -a."""
        return self.b.emit("Neg", [a])

    def where(self, mask: str, a: str | float, b: str | float) -> str:
        """Emit Where(mask, a, b)."""
        return self.b.emit("Where", [mask, self._name(a), self._name(b)])

    def greater(self, a: str | float, b: str | float) -> str:
        """Emit a > b."""
        return self.b.emit("Greater", [self._name(a), self._name(b)])

    def unary(self, operator: str, a: str) -> str:
        """Emit an elementwise operator of one input."""
        return self.b.emit(operator, [a])

    def _name(self, value: str | float) -> str:
        return value if isinstance(value, str) else self.b.constant(value)
