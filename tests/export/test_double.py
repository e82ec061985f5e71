"""Graphs in double precision agree with the judge of the gradient rules, and pooling with onnxruntime."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import parser

from export.double import Double
from export.gradients import add_input_gradient
from tests.export.gradients.classifiers import session
from tests.export.gradients.double import evaluate
from tests.export.gradients.test_rules import CASES, Case, error, finished, images, opset_for

FORMS = list({c.form: c for c in reversed(CASES)}.values())  # one case of every form of every operator


@pytest.mark.parametrize("c", FORMS, ids=str)
def test_gradient_graphs_of_every_operator(c: Case) -> None:
    graph = add_input_gradient(finished(c, opset_for(c)))
    batch, target = images(c, 2), np.array([1, 0])
    expected = evaluate(graph, {"x": batch, "target": target}, "gradient")["gradient"]
    found = Double(graph).run(["gradient"], {"x": batch.numpy().astype(np.float32), "target": target})["gradient"]
    assert found.dtype == np.float64
    assert error(found, expected) < 1e-6  # the image is float32 here, and so are attributes


POOLS = [
    f"{operator}<kernel_shape={list(kernel)}, {where}{', count_include_pad=1' if counted else ''}>"
    for operator, kernel, where, counted in itertools.product(
        ("MaxPool", "AveragePool"),
        ((2, 2), (3, 2)),
        (
            "strides=[2,2]",
            "strides=[2,2], ceil_mode=1",
            "strides=[2,3], pads=[1,0,1,1], ceil_mode=1",
            "strides=[1,1], pads=[1,1,0,1]",
            'strides=[2,2], auto_pad="SAME_UPPER"',
            'strides=[2,2], auto_pad="SAME_LOWER"',
            'strides=[2,2], auto_pad="VALID"',
            "strides=[1,2], dilations=[2,1]",
        ),
        (False, True),
    )
    if operator == "AveragePool" or not counted
]


def graph(text: str, opset: int = 20) -> onnx.ModelProto:
    """Return a model from ``x`` [N, 2, 7, 8] to ``y``."""
    body = f"g (float[N, 2, 7, 8] x) => (float[a, b, c, d] y) {{ {text} }}"
    return parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {body}')


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_as_onnxruntime_does_it(pool: str) -> None:
    model = graph(f"y = {pool}(x)")
    x = np.random.default_rng(0).integers(-50, 50, (2, 2, 7, 8)).astype(np.float32)
    (expected,) = session(model).run(["y"], {"x": x})
    found = Double(model).run(["y"], {"x": x})["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_whatever_makes_floats_makes_doubles() -> None:
    model = graph(
        "a = Constant<value_float = 0.1>() b = Constant<value_floats = [0.1]>() c = Constant<value = float {0.1}>()"
        " h = Cast<to = 10>(x) f = Cast<to = 1>(h) s = Sum(f, a, b, c)"
        " n = Shape(x) z = ConstantOfShape<value = float[1] {0.25}>(n) y = Add(s, z)"
    )
    x = np.full((1, 2, 7, 8), 0.1, np.float32)
    found = Double(model).run(["y"], {"x": x})["y"]
    assert found.dtype == np.float64
    assert np.ptp(found) == 0
    assert found.flat[0] == pytest.approx(4 * float(np.float32(0.1)) + 0.25, abs=1e-15)


def test_from_inner_tensors_only_what_follows_is_computed() -> None:
    model = graph("a = Sqrt(x) b = Exp(a) y = Mul(b, a)")
    double = Double(model)
    a = np.full((1, 2, 7, 8), 2.0)
    found = double.run(["y", "b"], {"a": a})
    assert np.array_equal(found["b"], np.exp(a))
    assert np.array_equal(found["y"], 2 * np.exp(a))
    assert double.tensors == {"a", "b", "y"}


def test_nothing_warns_of_infinities() -> None:
    with np.errstate(all="raise"):
        found = Double(graph("a = Neg(x) y = Log(a)")).run(["y"], {"x": np.ones((1, 2, 7, 8), np.float32)})["y"]
    assert np.isnan(found).all()
