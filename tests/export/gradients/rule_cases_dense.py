"""Cases of activations, arithmetic, convolutions and pooling; their geometries."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.export.gradients.rule_case import WIDE, Case, case

POSITIVE = "a = Abs(x)\np = Add(a, half)\n"

ACTIVATIONS = [
    case("y = Relu(x)"),
    case("y = Relu(x)", WIDE),
    case("y = LeakyRelu<alpha=0.2>(x)"),
    case("y = LeakyRelu(x)", WIDE),
    case("y = PRelu(x, s)", s=(3, 1, 1)),
    case("y = PRelu(x, s)", WIDE, s=(1,)),
    case("y = ThresholdedRelu<alpha=0.4>(x)"),
    case("y = Elu<alpha=1.3>(x)"),
    case("y = Celu<alpha=0.7>(x)"),
    case("y = Selu(x)"),
    case("y = Selu<alpha=1.5, gamma=1.2>(x)"),
    case("y = Sigmoid(x)"),
    case("y = HardSigmoid<alpha=0.7>(x)"),
    case("y = HardSigmoid(x)", WIDE),
    case("b = Mul(x, k)\ny = HardSwish(b)", k=3.0, since=14),
    case("b = Mul(x, k)\ny = HardSwish(b)", WIDE, k=3.0, since=14),
    case("y = Swish<alpha=1.7>(x)", since=24),
    case("y = Tanh(x)"),
    case("y = Softplus(x)"),
    case("y = Softsign(x)"),
    case("y = Mish(x)", since=18),
    case("y = Gelu(x)", since=20),
    case('y = Gelu<approximate="tanh">(x)', since=20),
    case("y = Erf(x)"),
    case("y = Exp(x)"),
    case(POSITIVE + "y = Log(p)", half=0.5),
    case(POSITIVE + "y = Sqrt(p)", half=0.5),
    case(POSITIVE + "y = Reciprocal(p)", half=0.5),
    case("y = Abs(x)"),
    case("y = Neg(x)"),
    case("y = Sin(x)"),
    case("y = Cos(x)"),
    case("y = Clip(x, lo, hi)", lo=-0.5, hi=0.7),
    case("y = Clip(x, lo, hi)", WIDE, lo=-0.5, hi=0.7),
    case("y = Clip(x, , hi)", hi=0.3),
    case("y = Clip(x, lo)", WIDE, lo=0.0),
    case("y = Clip(x)"),
    case("y = Clip(x, lo, hi)", lo=-3.0e38, hi=float("inf")),
    case("f = Flatten(x)\ni = Shape<start=1>(f)\nc = Cast<to=1>(i)\nh = Div(c, k)\nlo = ReduceMax<keepdims=0>(h)\n"
         "y = Clip(x, lo)", since=15, k=300.0),
    case("y = Cast<to=1>(x)"),
    case("y = CastLike(x, k)", k=1.0, since=15),
    case("f = Flatten(x)\nl = Gemm(f, w)\nlogits = Identity(l)", w=(90, 4)),
    case("f = Flatten(x)\nl = Gemm(f, w)\nlogits = Dropout(l)", w=(90, 4)),
]  # fmt: skip

MEAN = "m = GlobalAveragePool(x)\n"
ARITHMETIC = [
    case("y = Add(x, w)", w=(3, 1, 1)),
    case(MEAN + "y = Add(m, x)"),
    case("f = Flatten(x)\ns = Slice(f, i, j, k)\ny = Add(f, s)", i=[0], j=[1], k=[1]),
    case(MEAN + "y = Sub(m, x)"),
    case("y = Sub(w, x)", w=(1, 3, 1, 5)),
    case("y = Mul(x, x)"),
    case(MEAN + "y = Mul(x, m)"),
    case(MEAN + "y = Mul(m, x)", WIDE),
    case(MEAN + "y = Mul(x, m)", WIDE),
    case("y = Mul(x, w)", WIDE, w=(16, 1, 1)),
    case("c = Conv(x, w)\ns = Sigmoid(c)\ny = Mul(x, s)", WIDE, w=(1, 16, 1, 1)),  # a spatial gate
    case(POSITIVE + "y = Div(x, p)", half=0.5),
    case(POSITIVE + "m = GlobalAveragePool(p)\ny = Div(x, m)", half=0.5),
    case(POSITIVE + "y = Div(w, p)", half=0.5, w=(3, 6, 5)),
    case("y = Pow(x, k)", k=2.0),
    case("y = Pow(x, k)", k=[3]),
    case(POSITIVE + "y = Pow(p, k)", half=0.5, k=np.array([[[0.3]], [[1.0]], [[-1.5]]], np.float32)),
    case(POSITIVE + "y = Pow(p, x)", half=0.5),
    case(POSITIVE + "y = Pow(k, x)", half=0.5, k=1.7),
    case(MEAN + "y = Sum(x, m, w)", w=(6, 1)),
    case(MEAN + "y = Mean(x, m, w)", w=(6, 1)),
    case(MEAN + "y = Max(x, m, w)", w=(6, 1)),
    case("y = Min(x, w)", w=(3, 6, 5)),
    case("c = Greater(x, k)\ny = Where(c, x, m)", k=0.1, m=0.3),
    case(MEAN + "c = Greater(x, k)\nn = Neg(x)\ny = Where(c, m, n)", WIDE, k=0.1),
    case("y = MatMul(x, w)", w=(5, 4)),
    case("y = MatMul(w, x)", w=(3, 2, 6)),
    case("t = Transpose<perm=[0,1,3,2]>(x)\ny = MatMul(t, x)"),
    case("r = Reshape(x, s)\ny = MatMul(r, x)", s=[0, 1, 15, 6]),
    case("y = MatMul(x, w)", w=(5,)),
    case("y = MatMul(w, x)", w=(6,)),
    case("f = Flatten(x)\ny = Gemm<alpha=0.5, beta=2.0>(f, w, b)", w=(90, 4), b=(4,)),
    case("f = Flatten(x)\ny = Gemm<transB=1>(f, w, b)", w=(4, 90), b=(1, 4)),
    case("f = Flatten(x)\nt = Transpose(f)\ny = Gemm<transA=1>(t, w)", w=(90, 4)),
    case("f = Flatten(x)\nt = Transpose(f)\ny = Gemm<transA=1, transB=1>(t, w)", w=(4, 90)),
    case("f = Flatten(x)\nt = Transpose(f)\ng = Gemm<alpha=0.5>(w, t)\ny = Transpose(g)", w=(4, 90)),
    case("f = Flatten(x)\ng = Gemm<transA=1, transB=1>(w, f)\ny = Transpose(g)", w=(90, 4)),
    case('y = Einsum<equation="nchw,cd->ndhw">(x, w)', w=(3, 2)),
    case('y = Einsum<equation="nchw, nchv -> nhwv">(x, x)'),
    case('y = Einsum<equation="nchw->nc">(x)'),
    case('y = Einsum<equation="nchw,nchw,d->nd">(x, x, w)', w=(2,)),
    case('y = Einsum<equation="n...w,wv->n...v">(x, w)', w=(5, 2)),
    case('y = Einsum<equation="bchw,cd">(x, w)', w=(3, 2)),
    case('e = Einsum<equation="...w,wv">(x, w)\ny = Einsum<equation="...v,...v->...">(e, e)', w=(5, 2)),
]  # fmt: skip


def conv(shape: tuple[int, ...], weight_shape: tuple[int, ...], attributes: str = "", bias: bool = False) -> Case:
    text = f"y = Conv<{attributes}>(x, w{', b' if bias else ''})" if attributes else "y = Conv(x, w)"
    return case(text, shape, w=weight_shape, **({"b": weight_shape[:1]} if bias else {}))


CONVOLUTIONS = [
    conv((3, 6, 5), (4, 3, 3, 3), "pads=[1,1,1,1]", bias=True),
    conv((3, 6, 5), (4, 3, 1, 1)),
    conv((3, 7, 8), (4, 3, 3, 3), "strides=[2,2], pads=[1,1,1,1]"),
    conv((3, 8, 7), (4, 3, 3, 3), "strides=[2,2]"),
    conv((3, 7, 8), (4, 3, 1, 1), "strides=[2,2]"),
    conv((3, 9, 8), (4, 3, 2, 2), "strides=[3,3]"),  # stride beyond the kernel: phases without a gradient
    conv((3, 9, 11), (4, 3, 4, 4), "strides=[4,4]"),  # patches, with rows left over
    conv((3, 13, 12), (4, 3, 7, 7), "strides=[4,4], pads=[2,2,2,2]"),
    conv((3, 13, 12), (4, 3, 7, 7), "strides=[2,2], pads=[3,3,3,3]"),
    conv((3, 9, 10), (4, 3, 3, 5), "strides=[3,2], pads=[0,2,1,3]"),
    conv((3, 9, 8), (4, 3, 3, 2), "strides=[1,3], pads=[2,0,0,1]"),
    conv((3, 6, 5), (4, 3, 3, 3), "pads=[3,3,3,3]"),  # padding beyond the kernel's reach
    conv((3, 6, 5), (4, 3, 3, 3), "pads=[0,4,3,0], strides=[2,1]"),
    conv((3, 9, 8), (4, 3, 3, 3), "dilations=[2,3], pads=[2,3,2,3]"),
    conv((3, 9, 8), (4, 3, 3, 3), "dilations=[2,2], strides=[2,2], pads=[2,2,2,2]"),
    conv((3, 10, 9), (4, 3, 3, 3), "dilations=[3,2], strides=[2,3], pads=[1,2,3,0]"),
    conv((4, 6, 5), (6, 2, 3, 3), "group=2, pads=[1,1,1,1]"),
    conv((4, 7, 6), (6, 2, 3, 3), "group=2, strides=[2,2], pads=[1,1,1,1]"),
    conv((4, 6, 5), (4, 1, 3, 3), "group=4, pads=[1,1,1,1]", bias=True),
    conv((4, 7, 6), (8, 1, 3, 3), "group=4, strides=[2,2], pads=[1,1,1,1]"),
    conv((4, 7, 6), (4, 1, 5, 5), "group=4, strides=[2,2], pads=[2,2,2,2], dilations=[1,1]"),
    conv((3, 7, 6), (4, 3, 3, 3), 'auto_pad="SAME_UPPER", strides=[2,2]'),
    conv((3, 7, 6), (4, 3, 3, 3), 'auto_pad="SAME_LOWER", strides=[2,2]'),
    conv((3, 7, 6), (4, 3, 4, 2), 'auto_pad="SAME_LOWER"'),
    conv((3, 7, 6), (4, 3, 2, 2), 'auto_pad="SAME_UPPER", strides=[3,3]'),
    conv((3, 7, 6), (4, 3, 3, 3), 'auto_pad="VALID", strides=[2,2]'),
    conv((16, 5, 4), (32, 16, 3, 3), "pads=[1,1,1,1]"),
    conv((16, 5, 4), (32, 16, 3, 3), "strides=[2,2], pads=[1,1,1,1]"),
    conv((16, 6, 5), (16, 16, 1, 1), "strides=[2,2]"),
    conv((16, 5, 4), (16, 16, 2, 2), "strides=[2,2]"),
    conv((16, 5, 4), (16, 1, 3, 3), "group=16, strides=[2,2], pads=[1,1,1,1]"),
    conv((16, 5, 4), (16, 1, 5, 5), "group=16, pads=[2,2,2,2]"),
    conv((32, 4, 3), (32, 2, 3, 3), "group=16, pads=[1,1,1,1]"),
    conv((17, 5, 4), (19, 17, 3, 3), "strides=[3,2], pads=[1,1,1,1]"),
    case("c = Conv(x, w)\nd = Conv<strides=[2,2]>(x, v)\ne = Conv<strides=[2,2], pads=[1,1,1,1]>(x, u)\n"
         "s = Add(d, e)\nt = GlobalAveragePool(c)\ny = Add(s, t)", (16, 6, 6),
         w=(16, 16, 1, 1), v=(16, 16, 1, 1), u=(16, 16, 3, 3)),  # phases of a residual branch are added apart
    case("r = Reshape(x, s)\ny = Conv<pads=[1,2], strides=[2]>(r, w, b)", s=[0, 6, 15], w=(4, 6, 3), b=(4,)),
    case("r = Reshape(x, s)\ny = Conv<group=2, dilations=[2]>(r, w)", s=[0, 6, 15], w=(4, 3, 3)),
    case('r = Reshape(x, s)\ny = Conv<auto_pad="SAME_UPPER">(r, w)', s=[0, 1, 90], w=(1, 1, 5)),
    case("r = Reshape(x, s)\ny = Conv<pads=[2,0,0,0,0,0], strides=[2,1,1]>(r, w, b)", s=[0, 2, 5, 3, 3],
         w=(3, 2, 3, 1, 1), b=(3,)),
]  # fmt: skip


def transposed(shape: tuple[int, ...], weight_shape: tuple[int, ...], attributes: str = "") -> Case:
    operator = f"ConvTranspose<{attributes}>" if attributes else "ConvTranspose"
    return case(f"y = {operator}(x, w)", shape, w=weight_shape)


TRANSPOSED = [
    transposed((3, 4, 5), (3, 4, 3, 3)),
    transposed((3, 4, 5), (3, 4, 3, 3), "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
    transposed((3, 4, 5), (3, 4, 2, 2), "strides=[2,2]"),
    transposed((3, 4, 5), (3, 4, 2, 2), "strides=[3,3], output_padding=[2,1]"),
    transposed((4, 4, 5), (4, 3, 3, 3), "group=2, strides=[2,1], pads=[0,1,1,2]"),
    transposed((4, 4, 5), (4, 1, 4, 4), "group=4, strides=[2,2], pads=[1,1,1,1]"),
    transposed((3, 4, 5), (3, 4, 3, 3), "dilations=[2,2], pads=[1,2,0,1]"),
    transposed((3, 4, 5), (3, 4, 3, 3), "strides=[2,2], output_shape=[9,10]"),
    transposed((3, 4, 5), (3, 4, 3, 3), 'strides=[2,2], output_shape=[7,10], auto_pad="SAME_UPPER"'),
    transposed((3, 4, 5), (3, 4, 3, 3), 'strides=[2,2], auto_pad="SAME_LOWER"'),
    transposed((3, 4, 5), (3, 4, 3, 3), 'strides=[2,2], auto_pad="SAME_UPPER"'),
    transposed((3, 4, 5), (3, 4, 3, 3), 'strides=[2,2], auto_pad="VALID"'),
    transposed((16, 4, 3), (16, 16, 3, 3), "strides=[2,2], pads=[1,1,1,1]"),
    case("r = Reshape(x, s)\ny = ConvTranspose<strides=[2]>(r, w)", s=[0, 6, 15], w=(6, 2, 3)),
]


def pool(operator: str, shape: tuple[int, ...], attributes: str, **options: Any) -> Case:
    return case(f"y = {operator}<{attributes}>(x)", shape, **options)


NEGATIVE = "a = Abs(x)\nn = Neg(a)\ns = Sub(n, k)\n"  # padding must not win against it
POOLING = [
    pool("MaxPool", (3, 6, 5), "kernel_shape=[2,2], strides=[2,2]"),
    pool("MaxPool", (3, 7, 8), "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
    pool("MaxPool", (3, 7, 8), "kernel_shape=[3,3], strides=[2,2], ceil_mode=1"),
    pool("MaxPool", (3, 9, 10), "kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1], ceil_mode=1"),
    pool("MaxPool", (3, 6, 5), "kernel_shape=[3,3], pads=[1,1,1,1]"),
    pool("MaxPool", (3, 6, 5), "kernel_shape=[5,5], pads=[2,2,2,2]"),
    pool("MaxPool", (3, 8, 7), "kernel_shape=[2,2], strides=[3,3]"),
    pool("MaxPool", (3, 8, 7), "kernel_shape=[1,1], strides=[2,2]"),
    pool("MaxPool", (3, 8, 7), "kernel_shape=[2,3], dilations=[2,2]"),
    pool("MaxPool", (3, 9, 8), "kernel_shape=[3,3], strides=[2,2], dilations=[2,2], pads=[1,1,1,1]"),
    pool("MaxPool", (3, 7, 6), 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"'),
    pool("MaxPool", (3, 7, 6), 'kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_LOWER"'),
    pool("MaxPool", (3, 7, 6), 'kernel_shape=[2,2], strides=[2,2], auto_pad="VALID"'),
    pool("MaxPool", (16, 5, 4), "kernel_shape=[2,2], strides=[2,2]"),
    pool("MaxPool", (16, 5, 4), "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
    pool("MaxPool", (16, 6, 5), "kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]"),
    case(NEGATIVE + "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(s)", k=2.0),
    case(NEGATIVE + "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(s)", WIDE, k=2.0),
    case("r = Relu(x)\ny = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)", WIDE),
    case("r = Relu(x)\ny = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)"),
    case("r = Reshape(x, s)\ny = MaxPool<kernel_shape=[3], strides=[2], pads=[1,0]>(r)", s=[0, 6, 15]),
    pool("AveragePool", (3, 6, 5), "kernel_shape=[2,2], strides=[2,2]"),
    pool("AveragePool", (3, 6, 5), "kernel_shape=[3,3], pads=[1,1,1,1]"),
    pool("AveragePool", (3, 6, 5), "kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1"),
    pool("AveragePool", (3, 7, 8), "kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1]"),
    pool("AveragePool", (3, 7, 8), "kernel_shape=[3,3], strides=[2,2], ceil_mode=1"),
    pool("AveragePool", (3, 8, 7), "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1"),
    # before opset 19 the specification left open what ceil_mode counts beyond the padding
    pool("AveragePool", (3, 8, 7),
         "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1", since=19),
    pool("AveragePool", (3, 8, 7), "kernel_shape=[2,2], strides=[3,3]"),
    pool("AveragePool", (3, 9, 8), "kernel_shape=[3,2], strides=[2,1], dilations=[2,3], pads=[1,1,1,1]", since=19),
    pool("AveragePool", (3, 7, 6), 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"'),
    pool("AveragePool", (3, 7, 6), 'kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_LOWER"'),
    pool("AveragePool", (16, 5, 4), "kernel_shape=[2,2], strides=[2,2]"),
    pool("AveragePool", (16, 5, 4), "kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]"),
    pool("AveragePool", (16, 4, 4), "kernel_shape=[4,4]"),
    case("r = Reshape(x, s)\ny = AveragePool<kernel_shape=[3], strides=[2], pads=[1,0]>(r)", s=[0, 6, 15]),
    case("r = Reshape(x, s)\ny = AveragePool<kernel_shape=[3,1,1], pads=[1,0,0,1,0,0]>(r)", s=[0, 1, 3, 6, 5]),
    case("r = Reshape(x, s)\ny = MaxPool<kernel_shape=[1,1,2], strides=[1,1,2]>(r)", s=[0, 1, 3, 6, 5]),
    case("y = GlobalAveragePool(x)"),
    case("y = GlobalAveragePool(x)", WIDE),
    case("r = Reshape(x, s)\ny = GlobalAveragePool(r)", s=[0, 6, 15]),
    case("y = GlobalMaxPool(x)"),
    case("y = GlobalMaxPool(x)", WIDE),
]  # fmt: skip

DENSE = [*ACTIVATIONS, *ARITHMETIC, *CONVOLUTIONS, *TRANSPOSED, *POOLING]
