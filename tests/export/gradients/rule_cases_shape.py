"""Cases of reductions, normalisation, resampling, quantisation, and of operators that move or select values."""

from __future__ import annotations

import numpy as np

from tests.export.gradients.rule_case import WIDE, Case, case

POSITIVE = "a = Abs(x)\np = Add(a, half)\n"


def reduction(operator: str, before: str = "", x: str = "x") -> list[Case]:
    """Return the forms of one reduction: axes as an attribute before opset 18 (ReduceSum: 13), as an input since."""
    weights = {"half": 0.5} if before else {}
    attribute = [] if operator == "ReduceSum" else [
        case(before + f"y = {operator}<axes=[2,3]>({x})", until=17, **weights),
        case(before + f"y = {operator}<axes=[-1], keepdims=0>({x})", until=17, **weights),
        case(before + f"y = {operator}<axes=[1,2,3]>({x})", WIDE, until=17, **weights),
    ]  # fmt: skip
    since = 13 if operator == "ReduceSum" else 18
    return [
        *attribute,
        case(before + f"y = {operator}({x}, k)", since=since, k=[2, 3], **weights),
        case(before + f"y = {operator}({x}, k)", WIDE, since=since, k=[2, 3], **weights),
        case(before + f"y = {operator}<keepdims=0>({x}, k)", since=since, k=[-1, 1], **weights),
        case(before + f"y = {operator}<keepdims=0>({x}, k)", WIDE, since=since, k=[3, 2], **weights),
    ]


REDUCTIONS = [
    *reduction("ReduceSum"),
    *reduction("ReduceMean"),
    *reduction("ReduceMax"),
    *reduction("ReduceMin"),
    *reduction("ReduceL1"),
    *reduction("ReduceL2"),
    *reduction("ReduceSumSquare"),
    *reduction("ReduceLogSumExp"),
    *reduction("ReduceLogSum", POSITIVE, "p"),
    *reduction("ReduceProd", POSITIVE, "p"),
    case("s = ReduceMean<noop_with_empty_axes=1>(x)\ny = Neg(s)", since=18),
    case("y = Softmax(x)"),
    case("y = Softmax<axis=1>(x)"),
    case("y = LogSoftmax(x)"),
    case("y = LogSoftmax<axis=2>(x)"),
    case("f = Flatten(x)\nl = Gemm(f, w)\nlogits = LogSoftmax<axis=1>(l)", w=(90, 4)),
]

NORMALISATION = [
    case("y = BatchNormalization(x, g, b, m, v)", g=(3,), b=(3,), m=(3,), v=np.array([0.4, 1.0, 2.0], np.float32)),
    case("y = BatchNormalization<epsilon=0.1>(x, g, b, m, v)", WIDE,
         g=(16,), b=(16,), m=(16,), v=np.linspace(0.4, 2.0, 16, dtype=np.float32)),
    case("f = Flatten(x)\ny = BatchNormalization(f, g, b, m, v)", g=(90,), b=(90,), m=(90,),
         v=np.linspace(0.4, 2.0, 90, dtype=np.float32)),
    case("y = LayerNormalization(x, g, b)", since=17, g=(5,), b=(5,)),
    case("y = LayerNormalization<axis=1, epsilon=0.01>(x, g)", since=17, g=(3, 6, 5)),
    case("y = InstanceNormalization(x, g, b)", g=(3,), b=(3,)),
    case("y = InstanceNormalization<epsilon=0.1>(x, g, b)", WIDE, g=(16,), b=(16,)),
    case("r = Reshape(x, s)\ny = InstanceNormalization(r, g, b)", s=[0, 6, 15], g=(6,), b=(6,)),
    case("y = GroupNormalization<num_groups=2>(x, g, b)", (4, 4, 3), since=18, until=20, g=(2,), b=(2,)),
    case("y = GroupNormalization<num_groups=2>(x, g, b)", (4, 4, 3), since=21, g=(4,), b=(4,)),
    case("y = GroupNormalization<num_groups=4, epsilon=0.1>(x, g, b)", WIDE, since=21, g=(16,), b=(16,)),
    case("y = RMSNormalization(x, g)", since=23, g=(5,)),
    case("y = RMSNormalization<axis=1, epsilon=0.01>(x, g)", since=23, g=(3, 6, 5)),
    case("y = LRN<size=3, alpha=0.3, beta=0.6, bias=1.5>(x)", (7, 3, 4)),
    case("y = LRN<size=5, alpha=0.5>(x)", WIDE),
    case("y = LpNormalization(x)"),
    case("y = LpNormalization<axis=1, p=1>(x)"),
    # functions of the standard, which are written out before they are differentiated
    case("y = MeanVarianceNormalization<axes=[1,2,3]>(x)"),
    case("y = Shrink<bias=0.2, lambd=0.3>(x)"),
]  # fmt: skip


def resized(attributes: str, shape: tuple[int, ...] = (2, 4, 5), since: int = 13, **weights: object) -> Case:
    inputs = "x, , s" if "s" in weights else "x, , , z"
    return case(f"y = Resize<{attributes}>({inputs})", shape, since=since, **weights)


def scales(*factors: float) -> np.ndarray:
    return np.array([1, 1, *factors], np.float32)


MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
BATCH_SIZE_FREE = "axes=[2,3], "
RESIZE = [
    *(resized(f'mode="linear", coordinate_transformation_mode="{mode}"', s=scales(2.0, 1.6)) for mode in MODES),
    *(resized(f'mode="nearest", coordinate_transformation_mode="{mode}"', s=scales(2.0, 1.6)) for mode in MODES),
    *(resized(f'mode="nearest", nearest_mode="{mode}"', s=scales(1.5, 0.6))
      for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    resized('mode="linear"', s=scales(0.5, 0.61)),
    resized('mode="linear"', WIDE, s=scales(2.0, 2.0)),
    resized('mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"', WIDE, s=scales(2, 3)),
    resized(BATCH_SIZE_FREE + 'mode="linear"', since=18, z=[7, 3]),
    resized(BATCH_SIZE_FREE + 'mode="nearest"', since=18, z=[7, 3]),
    resized(BATCH_SIZE_FREE + 'mode="linear", coordinate_transformation_mode="half_pixel_symmetric"', since=19,
            s=np.array([1.7, 0.6], np.float32)),
    resized(BATCH_SIZE_FREE + 'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"', since=18, z=[1, 3]),
    resized(BATCH_SIZE_FREE + 'mode="linear", coordinate_transformation_mode="align_corners"', since=18, z=[1, 9]),
    resized(BATCH_SIZE_FREE + 'mode="linear", keep_aspect_ratio_policy="not_larger"', since=18, z=[9, 9]),
    case('h = Shape(x)\nn = Gather(h, zero)\nz = Concat<axis=0>(n, t)\ny = Resize<mode="linear">(x, , , z)',
         (2, 4, 5), zero=[0], t=[2, 7, 6]),
]  # fmt: skip

MOVES = [
    case("y = Reshape(x, s)", s=[0, -1, 3]),
    case("y = Reshape(x, s)", WIDE, s=[-1, 4, 80]),
    case("r = Reshape(x, s)\nt = Sigmoid(r)\ny = Reshape(t, u)", WIDE, s=[0, 16, 20], u=[0, 16, 5, 4]),
    case("y = Flatten<axis=2>(x)\nz = Reshape(y, s)\nf = Tanh(z)\nlogits = Gemm(f, w)", s=[-1, 90], w=(90, 4)),
    case("y = Flatten<axis=-3>(x)"),
    case("m = ReduceMax<keepdims=1>(x, k)\ny = Squeeze(m, q)", since=18, k=[2, 3], q=[2, -1]),
    case("y = Unsqueeze(x, k)", k=[1, -1]),
    case("t = Transpose<perm=[0,2,3,1]>(x)\ny = Mul(t, w)", w=(3,)),
    case("t = Transpose(x)\nu = Transpose<perm=[3,1,2,0]>(t)\ny = Tanh(u)"),
    case("n = Neg(x)\ny = Concat<axis=1>(x, n, x)"),
    case("n = Abs(x)\ny = Concat<axis=-1>(n, x)"),
    case("a, b = Split<axis=2>(x)\ny = Mul(a, b)", until=17),
    case("a, b = Split<axis=-2, num_outputs=2>(x)\ny = Mul(a, b)", since=18),
    case("a, b, c = Split<axis=1>(x, k)\ny = Mul(a, c)", k=[1, 1, 1]),
    case("a, b = Split<axis=3>(x, k)\ns = Sigmoid(b)\ny = Concat<axis=3>(s, b)", k=[2, 3]),
    case("y = Slice(x, i, j)", i=[0, 1], j=[2**63 - 1, 2]),
    case("y = Slice(x, i, j, k)", i=[1, -3], j=[-1, 9], k=[2, 3]),
    case("y = Slice(x, i, j, k, s)", i=[1], j=[6], k=[-2], s=[2]),
    case("y = Slice(x, i, j, k, s)", i=[0, 4], j=[6, -9], k=[2, 3], s=[3, -1]),
    case("y = Slice(x, i, j, k, s)", i=[-1], j=[-(2**31)], k=[2], s=[-2]),
    case("y = Slice(x, i, j, k, s)", i=[4], j=[1], k=[2], s=[-2]),
    case("s = Slice(x, i, j, k)\nr = ReduceSum(s, k)\nl = Add(x, r)\ny = Tanh(l)", i=[3], j=[3], k=[2]),
    case("y = Slice(x, i, j, k, s)", WIDE, i=[0], j=[16], k=[1], s=[2]),
    case("y = Pad(x, p)", p=[0, 0, 1, 2, 0, 1, 0, 1]),
    case("y = Pad(x, p, v)", p=[0, 0, -1, 2, 0, 0, 1, -2], v=0.5),
    case("y = Pad(x, p)", p=[0, 0, -2, -1, 0, 0, -1, 0]),
    case('y = Pad<mode="reflect">(x, p)', p=[0, 0, 2, 3, 0, 0, 4, 1]),
    case('y = Pad<mode="reflect">(x, p)', WIDE, p=[0, 0, 1, 1, 0, 0, 1, 1]),
    case('y = Pad<mode="edge">(x, p)', p=[0, 1, 2, 0, 0, 0, 0, 3]),
    case('y = Pad<mode="wrap">(x, p)', since=19, p=[0, 0, 2, 1, 0, 0, 3, 1]),
    case('y = Pad<mode="edge">(x, p, , k)', since=18, p=[2, 1], k=[-1]),
    case('y = Pad<mode="reflect">(x, p)', p=[0, 0, 2, -1, 0, 0, -1, 2]),
    case("e = Expand(x, s)\ny = Mul(e, w)", (1, 3, 4), s=[1, 5, 1, 1], w=(5, 3, 4)),
    case("m = GlobalAveragePool(x)\ny = Expand(m, s)", s=[1, 1, 4, 2]),
    case("f = Flatten(x)\ne = Expand(x, s)\ny = Tanh(e)", (3, 1, 4), s=[2, 1]),
    case("t = Tile(x, r)\ny = Mul(t, w)", r=[1, 2, 1, 3], w=(6, 6, 15)),
    case("y = Tile(x, r)", r=[1, 1, 1, 1]),
    case("y = DepthToSpace<blocksize=2>(x)", (8, 3, 2)),
    case('y = DepthToSpace<blocksize=2, mode="CRD">(x)', (8, 3, 2)),
    case('y = DepthToSpace<blocksize=2, mode="CRD">(x)', (64, 2, 3)),
    case("y = SpaceToDepth<blocksize=2>(x)", (3, 4, 6)),
    case("y = SpaceToDepth<blocksize=2>(x)", (16, 4, 2)),
]

SELECTIONS = [
    case("y = Gather<axis=1>(x, i)", i=[2, 0, 2]),
    case("y = Gather<axis=2>(x, i)", i=np.array([[1, -1], [5, 1]])),
    case("y = Gather<axis=-1>(x, i)", i=np.array(-2)),
    case("y = Gather<axis=1>(x, i)", i=np.array(1)),
    case("f = Flatten(x)\ny = Gather<axis=1>(f, i)", i=[3]),
    case("t = Transpose<perm=[2,3,0,1]>(x)\ng = GatherND(t, i)\ny = Transpose<perm=[2,0,1,3]>(g)",
         i=np.array([[[0, 0], [1, 4]], [[-1, 2], [1, 4]]])),
    case("t = Transpose<perm=[1,2,3,0]>(x)\ng = GatherND<batch_dims=1>(t, i)\ny = Transpose(g)",
         i=np.array([[[0], [1]], [[5], [2]], [[3], [3]]])),
    case("t = Transpose<perm=[1,0,2,3]>(x)\nu = Tanh(t)\nv = Slice(u, a, b, a)\ns = ScatterND(t, i, v)\n"
         "y = Transpose<perm=[1,0,2,3]>(s)", i=[[2]], a=[0], b=[1]),
    case("t = Transpose<perm=[2,3,0,1]>(x)\nv = GatherND(t, j)\nu = Exp(v)\ns = ScatterND(t, i, u)\n"
         "y = Transpose<perm=[2,3,0,1]>(s)", i=[[0, 1], [3, -2], [5, 4]], j=[[0, 1], [1, 1], [5, 4]]),
    case("t = Transpose<perm=[1,0,2,3]>(x)\nv = Slice(t, a, b, a)\nu = Exp(v)\n"
         's = ScatterND<reduction="add">(t, i, u)\n'
         "y = Transpose<perm=[1,0,2,3]>(s)", i=[[2], [2]], a=[0], b=[2], since=16),
    case("m = ArgMax<axis=2>(x)\ny = GatherElements<axis=2>(x, m)"),
    case("a, i = TopK<axis=3>(x, k)\nt = Tanh(x)\ny = GatherElements<axis=3>(t, i)", k=[2]),
    case("y, i = TopK<axis=1>(x, k)", k=[2]),
    case("y, i = TopK<largest=0>(x, k)", k=[3]),
    case("y = CumSum(x, k)", k=np.array(2)),
    case("y = CumSum<exclusive=1, reverse=1>(x, k)", k=np.array(-1)),
    case("y = Trilu(x)", since=14),
    case("y = Trilu<upper=0>(x, k)", since=14, k=np.array(1)),
]  # fmt: skip

ATTENTION = [
    case("q = Reshape(x, s)\nn = Neg(q)\nt = Tanh(q)\ny = Attention<q_num_heads=2, kv_num_heads=2>(q, n, t)",
         (4, 3, 4), since=23, s=[0, 6, 8]),
    case("q = Reshape(x, s)\nn = Neg(q)\nt = Tanh(q)\n"
         "y = Attention<q_num_heads=2, kv_num_heads=2, is_causal=1, scale=0.3>(q, n, t)",
         (4, 3, 4), since=23, s=[0, 6, 8]),
]  # fmt: skip

SHAPED = [*REDUCTIONS, *NORMALISATION, *RESIZE, *MOVES, *SELECTIONS, *ATTENTION]
