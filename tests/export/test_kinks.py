"""Every row of the table of kinks: the gradient jumps where a unit decides otherwise, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.flips import between
from export.gradients import add_input_gradient, build_explainer
from export.kinks import KINKS, Decision, attributes
from export.session import expose
from tests.export.gradients.classifiers import session

SHAPE = (1, 2, 7, 7)
OTHER = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
THIRD = OTHER - 9  # never the largest: only the first two meet
SLOPES = np.array([0.25, 0.5], np.float32).reshape(2, 1, 1)
SPATIAL = np.array([2, 3])


def comparing(operator: str) -> list[onnx.NodeProto]:
    """Return image * 2 where the comparison with ``other`` holds, the image elsewhere."""
    return [
        helper.make_node(operator, ["image", "other"], ["decided"]),
        helper.make_node("Add", ["image", "image"], ["double"]),
        helper.make_node("Where", ["decided", "double", "image"], ["out"]),
    ]


def node(operator: str, *inputs: str, **attributes: object) -> Callable[[], list[onnx.NodeProto]]:
    return lambda: [helper.make_node(operator, ["image", *inputs], ["out"], **attributes)]


CASES: dict[str, Callable[[], list[onnx.NodeProto]]] = {
    "Abs": node("Abs"),
    "Clip": node("Clip", "low", "high"),
    "Clip without a minimum": node("Clip", "", "high"),
    "Elu": node("Elu", alpha=2.0),
    "GlobalMaxPool": node("GlobalMaxPool"),
    "Greater": lambda: comparing("Greater"),
    "GreaterOrEqual": lambda: comparing("GreaterOrEqual"),
    "HardSigmoid": node("HardSigmoid", alpha=0.3),
    "HardSwish": node("HardSwish"),
    "LeakyRelu": node("LeakyRelu"),
    "Less": lambda: comparing("Less"),
    "LessOrEqual": lambda: comparing("LessOrEqual"),
    "Max": node("Max", "other"),
    "MaxPool": node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool, dilated": node("MaxPool", kernel_shape=[2, 3], dilations=[2, 1], strides=[1, 2]),
    "MaxPool, same": node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    "MaxPool, rounded up": node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "Max of three": node("Max", "other", "third"),
    "Min": node("Min", "other"),
    "PRelu": node("PRelu", "slopes"),
    "ReduceMax": node("ReduceMax", "spatial"),
    "ReduceMin": node("ReduceMin", "spatial", keepdims=0),
    "Relu": node("Relu"),
    "Selu": node("Selu"),
    "Shrink": node("Shrink", lambd=0.7, bias=0.2),
    "ThresholdedRelu": node("ThresholdedRelu", alpha=0.5),
}


def model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Return a classifier whose logits are the flattened ``out`` times random weights."""
    constants = {
        "other": OTHER,
        "third": THIRD,
        "slopes": SLOPES,
        "spatial": SPATIAL,
        "low": np.float32(-1),
        "high": np.float32(0.5),
    }
    probe = helper.make_graph(
        [*nodes, helper.make_node("Flatten", ["out"], ["flat"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("out", "flat")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    whole = helper.make_model(probe, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    _, flat = session(whole).run(None, {"image": OTHER})
    weights = np.random.default_rng(2).standard_normal((flat.shape[1], 4)).astype(np.float32)
    whole.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    whole.graph.node.append(helper.make_node("MatMul", ["flat", "weights"], ["logits"]))
    del whole.graph.output[:]
    whole.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4]))
    return whole


def sweep(index: int) -> np.ndarray:
    """Return images that differ in one element, which goes up in small steps and meets neither bounds nor others."""
    rng = np.random.default_rng(3)
    steps = np.linspace(-4.0003, 4.0001, 2000, dtype=np.float32)
    images = np.repeat(rng.standard_normal(SHAPE).astype(np.float32), len(steps), 0)
    images.reshape(len(steps), -1)[:, index] = steps
    return images


@pytest.mark.parametrize("index", [8, 24, 70])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_jumps_where_a_unit_decides_otherwise(case: str, index: int) -> None:
    nodes = CASES[case]()
    whole = model(nodes)
    values = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    graph = add_input_gradient(whole)
    expose(graph, [nodes[0].output[0]])
    images = sweep(index)
    names = ["gradient", nodes[0].output[0]]
    gradient, output = session(graph).run(names, {"image": images, "target": np.ones(len(images), np.int64)})
    decision = Decision(attributes(nodes[0]), [images, *map(values.get, nodes[0].input[1:])], output)
    decided = KINKS[nodes[0].op_type].decide(decision).reshape(len(images), -1)
    otherwise = (decided[1:] != decided[:-1]).any(1)
    jumps = np.abs(gradient[1:] - gradient[:-1]).max((1, 2, 3)) > 0.02
    assert otherwise.any()
    assert np.array_equal(otherwise, jumps)


@pytest.mark.parametrize("case", CASES)
def test_decisions_are_told_from_what_the_backward_pass_reads(case: str) -> None:
    nodes = CASES[case]()
    whole = model([helper.make_node("Identity", ["image"], ["copied"]), *nodes])
    for node in whole.graph.node[1 : 1 + len(nodes)]:  # inner values, not the image's own
        node.input[:] = ["moved" if name == "image" else name for name in node.input]
    whole.graph.node[0].CopyFrom(helper.make_node("Mul", ["image", "twice"], ["moved"]))
    whole.graph.initializer.append(numpy_helper.from_array(np.float32(2), "twice"))
    assert KINKS[nodes[0].op_type].operand(nodes[0]).replace("image", "moved") in between(build_explainer(whole))


def test_every_row_has_a_case() -> None:
    assert {make()[0].op_type for make in CASES.values()} == set(KINKS)


def test_elu_is_smooth_by_default() -> None:
    x = np.array([-1.0, 0.0, 1.0])
    assert not KINKS["Elu"].decide(Decision({}, [x])).any()
    assert KINKS["Elu"].decide(Decision({"alpha": 2.0}, [x])).tolist() == [False, False, True]
