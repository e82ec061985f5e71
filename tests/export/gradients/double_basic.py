"""The double-precision interpreter's table, and its elementwise, reducing and moving operators on torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

Tensor = torch.Tensor
FUNCTIONS: dict[str, Callable[..., Any]] = {}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Node:
    """What a function may ask about its node; ``kinds`` are the element types of those inputs that are constants."""

    operator: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    kinds: Sequence[int | None]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; a float as the fraction or decimal that its float32 stands for."""
        value = self.attributes.get(name, default)
        if isinstance(value, float):
            sixth = round(value * 6) / 6
            return sixth if np.float32(sixth) == np.float32(value) else float(str(np.float32(value)))
        return value.decode() if isinstance(value, bytes) else value


def operator(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function for the operators ``names``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in FUNCTIONS, f"{name} is defined twice"
            FUNCTIONS[name] = function
        return function

    return register


def widened(value: Any) -> Tensor:
    """Return a tensor of float64, int64, bool or uint8/int8 (small integers)."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        array = array.astype(np.float64)
    elif array.dtype.kind not in "iub":
        array = array.astype(np.int64)  # four-bit integers
    return torch.from_numpy(np.array(array))


def ints(value: Tensor) -> list[int]:
    return [int(v) for v in value.reshape(-1)]


# ---- elementwise -----------------------------------------------------------------------------------------------------

F = torch.nn.functional
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "Identity": lambda x: x, "Log": torch.log,
    "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "Softsign": F.softsign, "Sqrt": torch.sqrt,
    "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
for _name, _function in UNARY.items():
    operator(_name)(lambda node, x, _function=_function: _function(x))

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Pow": lambda x, n: torch.pow(x, n.to(x.dtype)),
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "MatMul": torch.matmul,
}  # fmt: skip
for _name, _pair in BINARY.items():
    operator(_name)(lambda node, a, b, _pair=_pair: _pair(a, b))

# Activations of one parameter table: function(x, **attributes), with the defaults of the ONNX specification.
SHAPED: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "LeakyRelu": (lambda x, alpha: torch.where(x > 0, x, alpha * x), {"alpha": 0.01}),
    "ThresholdedRelu": (lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)), {"alpha": 1.0}),
    "Elu": (lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)), {"alpha": 1.0}),
    "Celu": (lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x / alpha)), {"alpha": 1.0}),
    "Selu": (
        lambda x, alpha, gamma: gamma * torch.where(x > 0, x, alpha * torch.expm1(x)),
        {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    ),
    "HardSigmoid": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), {"alpha": 0.2, "beta": 0.5}),
    "Swish": (lambda x, alpha: x * torch.sigmoid(alpha * x), {"alpha": 1.0}),
    "Shrink": (
        lambda x, lambd, bias: torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))),
        {"lambd": 0.5, "bias": 0.0},
    ),
}
for _name, (_shaped, _defaults) in SHAPED.items():
    operator(_name)(
        lambda node, x, _shaped=_shaped, _defaults=_defaults: _shaped(
            x, **{key: float(node.get(key, default)) for key, default in _defaults.items()}
        )
    )


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope * x)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Div")
def div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("Clip")
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@operator("Sum", "Mean", "Max", "Min")
def variadic(node: Node, *terms: Tensor) -> Tensor:
    combine = {"Max": torch.maximum, "Min": torch.minimum}.get(node.operator, torch.add)
    total = terms[0]
    for term in terms[1:]:
        total = combine(total, term)
    return total / len(terms) if node.operator == "Mean" else total


@operator("Where")
def where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    to = node.get("to")
    if to in FLOATS:
        return x.double()
    return x.to(torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(to))).dtype)


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("Dropout")
def dropout(node: Node, x: Tensor, *_: Tensor) -> Tensor:
    return x


# ---- products --------------------------------------------------------------------------------------------------------


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    product = float(node.get("alpha", 1.0)) * (a @ b)
    return product if c is None else product + float(node.get("beta", 1.0)) * c


@operator("Einsum")
def einsum(node: Node, *factors: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *factors)


# ---- reductions ------------------------------------------------------------------------------------------------------

REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "ReduceSum": lambda x, axes: x.sum(axes, True),
    "ReduceMean": lambda x, axes: x.mean(axes, True),
    "ReduceMax": lambda x, axes: x.amax(axes, True),
    "ReduceMin": lambda x, axes: x.amin(axes, True),
    "ReduceL1": lambda x, axes: x.abs().sum(axes, True),
    "ReduceL2": lambda x, axes: x.square().sum(axes, True).sqrt(),
    "ReduceSumSquare": lambda x, axes: x.square().sum(axes, True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, True).log(),
    "ReduceLogSumExp": lambda x, axes: x.logsumexp(axes, True),
    "ReduceProd": lambda x, axes: _product(x, axes),
}


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


@operator(*REDUCTIONS)
def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = node.get("axes") if axes is None else ints(axes)
    if not given and node.get("noop_with_empty_axes", 0):
        return x
    chosen = [int(axis) % x.dim() for axis in given] if given else list(range(x.dim()))
    result = REDUCTIONS[node.operator](x, chosen)
    return result if node.get("keepdims", 1) else result.squeeze(tuple(chosen))


@operator("ArgMax", "ArgMin")
def arg_extremum(node: Node, x: Tensor) -> Tensor:
    """The first of equal elements, or the last where the attribute asks for it."""
    axis = node.get("axis", 0)
    x = x if node.operator == "ArgMax" else -x
    if node.get("select_last_index", 0):
        found = x.shape[axis] - 1 - torch.from_numpy(np.argmax(x.flip(axis).numpy(), axis=axis, keepdims=True))
    else:
        found = torch.from_numpy(np.argmax(x.numpy(), axis=axis, keepdims=True))
    return found if node.get("keepdims", 1) else found.squeeze(axis)


@operator("Softmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    return x.softmax(node.get("axis", -1))


@operator("LogSoftmax")
def log_softmax(node: Node, x: Tensor) -> Tensor:
    return x.log_softmax(node.get("axis", -1))


# ---- values moved, not changed ---------------------------------------------------------------------------------------


@operator("Reshape")
def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = ints(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Squeeze")
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


@operator("Unsqueeze")
def unsqueeze(node: Node, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(reversed(range(x.dim()))))


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.get("axis"))


@operator("Split")
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = node.get("axis", 0)
    if sizes is not None:
        return x.split(ints(sizes), axis)
    return x.split(-(-x.shape[axis] // node.outputs), axis)


@operator("Slice")
def slice_(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = starts.numel()
    chosen = range(count) if axes is None else ints(axes)
    for start, end, axis, step in zip(
        ints(starts), ints(ends), chosen, [1] * count if steps is None else ints(steps), strict=True
    ):
        n = x.shape[axis]
        # Python reads an end of -1 from the back; ONNX clamps what lies before the first element
        taken = list(range(n)[slice(start, None if step < 0 and end < -n else end, step)])
        x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64))
    return x


PAD_INDICES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Pad")
def pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    chosen = list(range(x.dim())) if axes is None else ints(axes)
    amounts = ints(pads)
    mode = node.get("mode", "constant")
    for i, axis in enumerate(chosen):
        begin, end = amounts[i], amounts[i + len(chosen)]
        n = x.shape[axis]
        if mode == "constant":
            position = 2 * (x.dim() - 1 - axis % x.dim())
            sizes = [0] * (2 * x.dim())
            sizes[position], sizes[position + 1] = begin, end
            x = F.pad(x, sizes, value=0.0 if value is None else float(value))
            continue
        sources = np.pad(np.arange(n), (max(begin, 0), max(end, 0)), mode=PAD_INDICES[mode])
        sources = sources[max(-begin, 0) : len(sources) - max(-end, 0)]
        x = x.index_select(axis, torch.from_numpy(sources))
    return x


@operator("Expand")
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(shape))))


@operator("Tile")
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


@operator("Gather")
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    taken = x.index_select(axis, indices.reshape(-1).long() % x.shape[axis])
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(x, axis, indices.long() % x.shape[axis])


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    return gather_nd_from(x, indices, node.get("batch_dims", 0))


def gather_nd_from(x: Tensor, indices: Tensor, batch: int) -> Tensor:
    if batch:
        return torch.stack([gather_nd_from(a, i, batch - 1) for a, i in zip(x, indices, strict=True)])
    return x[tuple(indices.long().unbind(-1))]


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    return x.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=node.get("reduction", "none") == "add")


@operator("TopK")
def top_k(node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    found = x.topk(int(k), node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))
    return found.values, found.indices


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    n, c, h, w = x.shape
    if node.get("mode", "DCR") == "DCR":
        grid = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        grid = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return grid.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize")
    n, c, h, w = x.shape
    grid = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return grid.reshape(n, c * block**2, h // block, w // block)


@operator("Trilu")
def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("CumSum")
def cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis)
    x = x.flip(along) if node.get("reverse", 0) else x
    total = x.cumsum(along) - (x if node.get("exclusive", 0) else 0)
    return total.flip(along) if node.get("reverse", 0) else total


# ---- shapes ----------------------------------------------------------------------------------------------------------


@operator("Shape")
def shape_(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(node.get("start", 0), node.get("end"))], dtype=torch.int64)


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("ConstantOfShape")
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value")
    filled = torch.zeros(1, dtype=torch.float64) if value is None else widened(numpy_helper.to_array(value))
    return filled.reshape(()).expand(ints(shape)).clone()


@operator("Range")
def range_(node: Node, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)
