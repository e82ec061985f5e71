"""The interpreter's convolutions, pooling, resampling, normalisation and quantisation; importing it fills the table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto, helper

from tests.export.gradients.double_basic import F, Node, Tensor, operator

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def window(node: Node, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return strides, dilations and the padding at the begin and the end of each spatial axis, by the specification."""
    rank = len(size)
    strides = list(node.get("strides") or [1] * rank)
    dilations = list(node.get("dilations") or [1] * rank)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for n, s, d, k in zip(size, strides, dilations, kernel, strict=True):
            total = max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            small, large = total // 2, total - total // 2
            begin.append(small if auto == "SAME_UPPER" else large)
            end.append(large if auto == "SAME_UPPER" else small)
        return strides, dilations, begin, end
    pads = [0] * (2 * rank) if auto == "VALID" else list(node.get("pads") or [0] * (2 * rank))
    return strides, dilations, pads[:rank], pads[rank:]


def padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    amounts = [amount for pair in reversed(list(zip(begin, end, strict=True))) for amount in pair]
    return F.pad(x, amounts, value=value) if any(amounts) else x


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations, begin, end = window(node, x.shape[2:], weight.shape[2:])
    rank = x.dim() - 2
    return CONV[rank](padded(x, begin, end), weight, bias, strides, 0, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The full transposed convolution, then cropped (pads) or extended by zeros (output padding)."""
    rank = x.dim() - 2
    strides, dilations = list(node.get("strides") or [1] * rank), list(node.get("dilations") or [1] * rank)
    extra = list(node.get("output_padding") or [0] * rank)
    full = CONV_TRANSPOSE[rank](x, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    auto = node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    for axis in range(rank):
        length = full.shape[2 + axis]
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            out = list(wanted)[-rank:][axis] if wanted else x.shape[2 + axis] * strides[axis]
            total = length + extra[axis] - out
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        else:
            pads = [0] * (2 * rank) if auto == "VALID" else list(node.get("pads") or [0] * (2 * rank))
            begin = pads[axis]
            out = length + extra[axis] - pads[axis] - pads[axis + rank]
        lack = max(0, begin + out - length)
        index = [0] * rank
        index[axis] = lack
        full = padded(full, [0] * rank, index).narrow(2 + axis, begin, out)
    return full if bias is None else full + bias.reshape(-1, *[1] * rank)


def pooled_size(node: Node, n: int, s: int, reach: int, begin: int, end: int) -> int:
    """Return the output size of a pooling; with ceil_mode the last window must start inside the image or its begin."""
    if node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return math.ceil(n / s)
    free = n + begin + end - reach
    if not node.get("ceil_mode", 0):
        return free // s + 1
    out = math.ceil(free / s) + 1
    return out - 1 if (out - 1) * s >= n + begin else out


def pool_window(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int]]:
    """Return kernel, strides, dilations, declared padding, and the end padding that the output size needs."""
    kernel = list(node.get("kernel_shape"))
    strides, dilations, begin, end = window(node, x.shape[2:], kernel)
    need = []
    for n, k, s, d, b, e in zip(x.shape[2:], kernel, strides, dilations, begin, end, strict=True):
        reach = (k - 1) * d + 1
        need.append((pooled_size(node, n, s, reach, b, e) - 1) * s + reach - n - b)
    return kernel, strides, dilations, begin, end, need


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, begin, _, need = pool_window(node, x)
    return MAX_POOL[x.dim() - 2](padded(x, begin, need, -math.inf), kernel, strides, 0, dilations)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, begin, end, need = pool_window(node, x)
    rank = x.dim() - 2
    ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
    total = CONV[rank](padded(x, begin, need), ones, None, strides, 0, dilations, x.shape[1])
    counted = torch.ones_like(x[:1, :1])
    if node.get("count_include_pad", 0):
        inside_end = [min(e, n) for e, n in zip(end, need, strict=True)]
        counted = padded(counted, begin, inside_end, 1.0)
        counted = padded(counted, [0] * rank, [n - e for n, e in zip(need, inside_end, strict=True)])
    else:
        counted = padded(counted, begin, need)
    return total / CONV[rank](counted, ones[:1], None, strides, 0, dilations)


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, begin, _, need = pool_window(node, x)
    p = node.get("p", 2)
    ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
    powers = padded(x.abs() ** p, begin, need)
    return CONV[x.dim() - 2](powers, ones, None, strides, 0, dilations, x.shape[1]) ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    p = node.get("p", 2)
    return (x.abs() ** p).sum(tuple(range(2, x.dim())), True) ** (1 / p)


# ---- normalisation ---------------------------------------------------------------------------------------------------


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(-1, *[1] * (x.dim() - 2))


def standardised(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    return (x - x.mean(tuple(axes), True)) / (x.var(tuple(axes), False, True) + epsilon).sqrt()


@operator("BatchNormalization")
def batch_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    spread = (variance + float(node.get("epsilon", 1e-5))).sqrt()
    return (x - per_channel(mean, x)) / per_channel(spread, x) * per_channel(scale, x) + per_channel(bias, x)


@operator("InstanceNormalization")
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = standardised(x, range(2, x.dim()), float(node.get("epsilon", 1e-5)))
    return z * per_channel(scale, x) + per_channel(bias, x)


@operator("LayerNormalization")
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = range(node.get("axis", -1) % x.dim(), x.dim())
    z = standardised(x, axes, float(node.get("epsilon", 1e-5))) * scale
    return z if bias is None else z + bias


@operator("RMSNormalization")
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(node.get("axis", -1) % x.dim(), x.dim()))
    return x / (x.square().mean(axes, True) + float(node.get("epsilon", 1e-5))).sqrt() * scale


@operator("GroupNormalization")
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias are per group before opset 21, per channel since."""
    groups = node.get("num_groups")
    if node.opset < 21:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    grouped = x.reshape(x.shape[0], groups, -1)
    z = standardised(grouped, (2,), float(node.get("epsilon", 1e-5))).reshape(x.shape)
    return z * per_channel(scale, x) + per_channel(bias, x)


@operator("LRN")
def lrn(node: Node, x: Tensor) -> Tensor:
    size = node.get("size")
    alpha, beta, bias = (
        float(node.get(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    channels = x.shape[1]
    sums = [x[:, max(0, c - before) : c + after + 1].square().sum(1) for c in range(channels)]
    return x / (bias + alpha / size * torch.stack(sums, 1)) ** beta


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), True)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    axes = list(node.get("axes") or (0, 2, 3))
    return (x - x.mean(axes, True)) / (x.var(axes, False, True).sqrt() + 1e-9)


# ---- resampling ------------------------------------------------------------------------------------------------------

NEAREST = {
    "round_prefer_floor": lambda x: math.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}
COORDINATES = {
    "half_pixel": lambda i, old, new, scale: (i + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda i, old, new, scale: old / 2 * (1 - new / (scale * old)) + (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, old, new, scale: (i + 0.5) / scale - 0.5 if new > 1 else 0.0,
    "align_corners": lambda i, old, new, scale: i * (old - 1) / (new - 1) if new > 1 else 0.0,
    "asymmetric": lambda i, old, new, scale: i / scale,
}


@operator("Resize")
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    axes = [int(a) % x.dim() for a in node.get("axes") or range(x.dim())]
    lengths = [x.shape[axis] for axis in axes]
    if scales is not None and scales.numel():
        factors = [float(s) for s in scales]
        targets = [math.floor(n * s) for n, s in zip(lengths, factors, strict=True)]
    else:
        factors = [int(z) / n for z, n in zip(sizes, lengths, strict=True)]
        targets = [int(z) for z in sizes]
    policy = {"not_larger": min, "not_smaller": max}.get(node.get("keep_aspect_ratio_policy", "stretch"))
    if policy:
        factors = [policy(factors)] * len(axes)
        targets = [math.floor(n * s + 0.5) for n, s in zip(lengths, factors, strict=True)]
    for axis, target, factor in zip(axes, targets, factors, strict=True):
        if (x.shape[axis], factor) != (target, 1.0):
            x = resized(node, x, axis, target, factor)
    return x


def resized(node: Node, x: Tensor, axis: int, new: int, scale: float) -> Tensor:
    """Resize one axis; the interpolations of ONNX are separable. Engines choose the nearest neighbour in float32."""
    old = x.shape[axis]
    place = COORDINATES[node.get("coordinate_transformation_mode", "half_pixel")]
    nearest = node.get("mode", "nearest") == "nearest"
    choose = NEAREST[node.get("nearest_mode", "round_prefer_floor")] if nearest else math.floor
    kind = np.float32 if nearest else np.float64
    rows = []
    for i in range(new):
        position = place(kind(i), kind(old), kind(new), kind(scale))
        low = choose(position)
        first, second = (x.select(axis, min(max(index, 0), old - 1)) for index in (low, low + 1))
        share = 0.0 if nearest else float(position) - low
        rows.append((1 - share) * first + share * second)
    return torch.stack(rows, axis)


# ---- quantisation ----------------------------------------------------------------------------------------------------

RANGES = {
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
}


def quantised_range(kind: int) -> tuple[int, int]:
    if kind in RANGES:
        return RANGES[kind]
    info = np.iinfo(helper.tensor_dtype_to_np_dtype(kind))
    return info.min, info.max


def along(node: Node, vector: Tensor, x: Tensor) -> Tensor:
    """Bring a scale or a zero point to a shape that broadcasts: a scalar, a vector along ``axis``, or blocks."""
    axis = node.get("axis", 1) % x.dim() if x.dim() else 0
    block = node.get("block_size", 0)
    if block:
        return vector.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return (
        vector.reshape([-1 if i == axis else 1 for i in range(x.dim())]) if vector.numel() > 1 else vector.reshape(())
    )


@operator("QuantizeLinear")
def quantize_linear(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """The integers, kept as float64: nothing but DequantizeLinear reads them."""
    kind = node.get("output_dtype", 0) or (node.kinds[2] if zero is not None else TensorProto.UINT8)
    low, high = quantised_range(kind)
    shift = 0.0 if zero is None else along(node, zero, x).double()
    return (torch.round(x / along(node, scale, x)) + shift).clamp(low, high)


@operator("DequantizeLinear")
def dequantize_linear(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shift = 0.0 if zero is None else along(node, zero, x).double()
    return (x.double() - shift) * along(node, scale, x)
