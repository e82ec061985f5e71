"""The interpreter that judges the rules agrees with ONNX's own reference evaluator, in double."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from export.gradients import RULES, add_input_gradient
from export.gradients.prepare import prepare
from tests.export.gradients.double import FUNCTIONS, evaluate
from tests.export.gradients.exactness import relative
from tests.export.gradients.rule_case import WIDE, Case, case
from tests.export.gradients.test_rules import finished, in_double, opset_for

# Graphs whose operators the reference evaluator has and has right; it is too slow for whole networks.
GRAPHS = [
    case("y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)", (3, 7, 6), w=(4, 3, 3, 3)),
    case("y = Conv<group=2, pads=[1,0,1,0]>(x, w)", (4, 5, 4), w=(6, 2, 3, 1)),
    case("y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w)", (3, 4, 5), w=(3, 4, 3, 3)),
    case("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", (3, 7, 6)),
    case("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)"),
    case("y = HardSwish(x)", since=14),
    case("y = Mish(x)", since=18),
    case("y = Gelu(x)", since=20),
    case("y = Selu(x)"),
    case("y = LayerNormalization(x, g, b)", since=17, g=(5,), b=(5,)),
    case("y = InstanceNormalization(x, g, b)", g=(3,), b=(3,)),
    case('y = Resize<mode="linear">(x, , s)', (2, 4, 5), s=np.array([1, 1, 2, 1.6], np.float32)),
    case('y = Resize<mode="nearest">(x, , s)', (2, 4, 5), s=np.array([1, 1, 2, 1.6], np.float32)),
    case("y = DepthToSpace<blocksize=2>(x)", (8, 3, 2)),
    case('y = DepthToSpace<blocksize=2, mode="CRD">(x)', (8, 3, 2)),
    case("y = SpaceToDepth<blocksize=2>(x)", (3, 4, 6)),
    case('y = Pad<mode="reflect">(x, p)', p=[0, 0, 2, 3, 0, 0, 4, 1]),
    case("y = Slice(x, i, j, k, s)", i=[4], j=[1], k=[2], s=[-2]),
    case('y = Einsum<equation="nchw, nchv -> nhwv">(x, x)'),
    case("m = GlobalAveragePool(x)\ny = Mul(x, m)", WIDE),
    case("y = LogSoftmax<axis=1>(x)"),
    case("y = Gather<axis=2>(x, i)", i=np.array([[1, -1], [5, 1]])),
]


@pytest.mark.parametrize("c", GRAPHS, ids=str)
def test_equals_the_reference_evaluator(c: Case) -> None:
    """Forward pass and gradient graph, so that the operators that only rules emit are compared as well."""
    graph = add_input_gradient(in_double(finished(c, opset_for(c))))
    images = np.random.default_rng(0).standard_normal((2, *c.shape))
    feeds = {"x": images, "target": np.array([1, 3])}
    names = ["logits", "gradient"]
    expected = ReferenceEvaluator(graph).run(names, feeds)
    found = evaluate(graph, feeds, *names)
    for name, value in zip(names, expected, strict=True):
        assert relative(found[name], torch.from_numpy(np.asarray(value, np.float64))) < 1e-6  # float32 attributes


def test_the_interpreter_has_every_operator_of_the_table() -> None:
    assert set(RULES) - set(FUNCTIONS) == set()


def test_float32_weights_are_widened() -> None:
    """In double 0.1 as float32 times three is not 0.3 as float32: the type of the model does not narrow the result."""
    model = in_double(finished(case("y = Mul(x, k)", k=0.1), 20))
    feeds = {"x": np.full((1, 3, 6, 5), 3.0)}
    y = evaluate(prepare(model).model, feeds, "y")["y"]
    assert y.dtype == torch.float64
    assert float(y[0, 0, 0, 0]) == 3.0 * float(np.float32(0.1))


def test_an_unknown_operator_is_no_silent_zero() -> None:
    graph = helper.make_graph([helper.make_node("Asinh", ["x"], ["y"])], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(KeyError, match="Asinh"):
        evaluate(model, {"x": np.zeros(1)}, "y")
