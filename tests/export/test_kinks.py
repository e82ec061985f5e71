"""Every row of the table of kinks: at half a crossing the gradient jumps, and just before it does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.gradients import add_input_gradient
from export.kinks import CROSSINGS, Decision, attributes, beyond
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


def output_shape(whole: onnx.ModelProto, name: str) -> tuple[int, ...]:
    probe = onnx.ModelProto()
    probe.CopyFrom(whole)
    probe.graph.output.append(onnx.ValueInfoProto(name=name))
    return tuple(session(probe).run([name], {"image": OTHER})[0].shape)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_jumps_half_way(case: str) -> None:
    nodes = CASES[case]()
    whole = model(nodes)
    constants = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    image = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    inputs = [image, *(constants.get(name) for name in nodes[0].input[1:])]
    decision = Decision(attributes(nodes[0]), inputs, output_shape(whole, nodes[0].output[0]))
    crossings = CROSSINGS[nodes[0].op_type](decision)
    assert crossings.shape == SHAPE
    opened = session(add_input_gradient(whole))

    def gradient(share: float, index: tuple[int, ...]) -> np.ndarray:
        moved = image.copy()
        moved[index] += share * crossings[index]
        result: np.ndarray = opened.run(["gradient"], {"image": moved, "target": np.array([1])})[0]
        return result

    closest = [flat for flat in np.argsort(np.abs(crossings), axis=None)[:3] if np.isfinite(crossings.flat[flat])]
    assert closest
    for flat in closest:
        index = np.unravel_index(flat, SHAPE)
        jump = np.abs(gradient(0.5005, index) - gradient(0.4995, index)).max()
        before = np.abs(gradient(0.4995, index) - gradient(0.4985, index)).max()
        assert jump > 0.01
        assert before < 0.05 * jump


def test_every_row_has_a_case() -> None:
    assert {case.split(",")[0].split(" ")[0] for case in CASES} == set(CROSSINGS)


def test_what_lies_on_a_kink_is_not_undecided() -> None:
    values = np.array([0.0, 0.25, -0.25, 1.0])
    assert np.isinf(beyond(values, 0.0)).tolist() == [True, False, False, False]
    assert beyond(values, 0.0, 1.0).tolist()[1:3] == [-0.5, 0.5]
    assert np.isinf(beyond(values, None, np.inf)).all()
    tie = Decision({"kernel_shape": [2, 2], "strides": [2, 2]}, [np.ones((1, 1, 2, 2))], (1, 1, 1, 1))
    assert np.isinf(CROSSINGS["MaxPool"](tie)).all()


def test_two_units_of_one_value_compete_and_copies_of_one_do_not() -> None:
    def crossings(values: list[float], *elsewhere: list[float]) -> list[float]:
        window, *others = (np.array(each, np.float32).reshape(1, 1, 2, 2) for each in (values, *elsewhere))
        decision = Decision({"kernel_shape": [2, 2]}, [window], (1, 1, 1, 1), others)
        found: list[float] = CROSSINGS["MaxPool"](decision).ravel().tolist()
        return found

    inf, step = np.inf, float(np.spacing(np.float32(5)))
    assert crossings([4, 5, 5, 1], [4, 6, 6, 1], [4, 6, 7, 1]) == [2, inf, step, 8]
    assert crossings([4, 5, 5, 1], [4, 6, 6, 1], [4, 7, 7, 1]) == [2, inf, inf, 8]
    assert crossings([0, 0, 0, -1], [1, 2, 3, -1]) == [inf, inf, inf, 2]


def test_smooth_activations_have_no_kink() -> None:
    assert np.isinf(CROSSINGS["Elu"](Decision({}, [OTHER], SHAPE))).all()


def test_a_broadcast_operand_is_left_out() -> None:
    row = np.ones((1, 1, 1, 7))
    assert np.isinf(CROSSINGS["Max"](Decision({}, [row, OTHER], SHAPE))).all()
