"""TensorRT's operator set: every produced graph stays inside it, and every row of the tables can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import InputError
from export.fold import fold_constants
from export.gradients import GUIDED, add_input_gradient, build_explainer, build_grad_cam
from export.tensorrt_conditions import CONDITIONS
from export.tensorrt_support import NEWEST_OPSET, SINCE, TYPES, UNSUPPORTED, Finding, check, errors
from tests.export.gradients.classifiers import MINIATURES, SIZE, classifier, miniature, run
from toolkit import models

OLDEST, NEWEST = "10.3", "11.4"
FLOAT = TensorProto.FLOAT
TYPE_CODES = {"float": FLOAT, "bool": TensorProto.BOOL, "int8": TensorProto.INT8}


def graph_of(family: str) -> onnx.ModelProto:
    return miniature(family) if family in MINIATURES else classifier(family)[1]


def attention(family: str) -> bool:
    return family in ("vit", "swin")


@pytest.mark.parametrize("family", [*SIZE, *MINIATURES])
def test_produced_graphs_stay_inside(family: str) -> None:
    model = graph_of(family)
    produced = [model, add_input_gradient(model), build_explainer(model), add_input_gradient(model, rules=GUIDED)]
    if not attention(family):
        produced.append(build_grad_cam(model))
    for graph in produced:
        findings = check(graph)
        assert [str(finding) for finding in errors(findings)] == []
        notes = {finding.rule for finding in findings}
        assert notes <= {"computed-kernel", "exact-float32", "shape-arithmetic"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vgg16", 32),
        ("resnet18", 224),
        ("mobilenet_v3_small", 224),
        ("efficientnet_b0", 224),
        ("convnext_tiny", 224),
        ("vit_b_16", 224),
        ("swin_t", 224),
        ("densenet121", 224),
        ("googlenet", 224),
        ("shufflenet_v2_x0_5", 224),
        ("maxvit_t", 224),
    ],
)
def test_graphs_of_published_sizes_stay_inside(name: str, size: int) -> None:
    from export.to_onnx import to_onnx

    model = to_onnx(models.build(name, 10, input_size=size).eval(), input_size=(size, size))
    for graph in (model, add_input_gradient(model), build_explainer(model)):
        assert [str(finding) for finding in errors(check(graph))] == []


def test_folded_graphs_have_stored_kernels_and_give_the_same() -> None:
    _, model = classifier("resnet18")
    graph = add_input_gradient(model)
    folded = fold_constants(graph)
    assert "computed-kernel" in {finding.rule for finding in check(graph)}
    assert "computed-kernel" not in {finding.rule for finding in check(folded)}
    assert len(folded.graph.node) < len(graph.graph.node)
    onnx.checker.check_model(folded, full_check=True)
    feeds = {
        "image": np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32),
        "target": np.array([1, 2]),
    }
    for name, value in run(graph, **feeds).items():
        assert np.array_equal(value, run(folded, **feeds)[name])


def test_folding_leaves_what_has_nothing_to_fold() -> None:
    _, model = classifier("resnet18")
    assert fold_constants(model).SerializeToString() == model.SerializeToString()


# ---- every row can fail ----------------------------------------------------------------------------------------------

Input = Any  # an element type of a graph input [2, 3, 4, 4], its (type, shape), or an array for an initializer


def one(
    operator: str, *inputs: Input, outputs: int = 1, opset: int = 20, domain: str = "", **attributes: Any
) -> onnx.ModelProto:
    """Return a model of one node; the check needs no valid model."""
    names, infos, tensors = [], [], []
    for index, value in enumerate(inputs):
        name = f"in{index}"
        names.append("" if value is None else name)
        if isinstance(value, np.ndarray):
            tensors.append(numpy_helper.from_array(value, name))
        elif value is not None:
            kind, shape = value if isinstance(value, tuple) else (value, [2, 3, 4, 4])
            infos.append(helper.make_tensor_value_info(name, kind, shape))
    node = helper.make_node(operator, names, [f"out{i}" for i in range(outputs)], "n", domain=domain, **attributes)
    ends = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "g", infos, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def rules(model: onnx.ModelProto, version: str = OLDEST) -> set[str]:
    return {finding.rule for finding in check(model, version)}


ZERO, ONE = np.array(0), np.array([1])
KERNEL = np.ones((4, 3, 3, 3), np.float32)
TWO_FLOATS = np.ones(2, np.float32)

BAD: list[tuple[str, str, onnx.ModelProto]] = [
    ("AveragePool", "pool-dilation", one("AveragePool", FLOAT, kernel_shape=[2, 2], dilations=[2, 2])),
    ("AveragePool", "spatial-axes", one("AveragePool", (FLOAT, [2, 3, 4]), kernel_shape=[2])),
    ("BatchNormalization", "outputs", one("BatchNormalization", FLOAT, outputs=3)),
    ("BatchNormalization", "training", one("BatchNormalization", FLOAT, training_mode=1)),
    ("Cast", "cast", one("Cast", FLOAT, to=TensorProto.INT16)),
    ("Constant", "constant", one("Constant", value_string="text")),
    ("Conv", "spatial-axes", one("Conv", (FLOAT, [1, 3, 4, 4, 4, 4]), KERNEL)),
    ("Conv", "negative-pads", one("Conv", FLOAT, KERNEL, pads=[-1, 0, 0, 0])),
    ("Conv", "dynamic-kernel", one("Conv", FLOAT, FLOAT)),
    ("ConvTranspose", "spatial-axes", one("ConvTranspose", (FLOAT, [1, 3]), KERNEL)),
    ("ConvTranspose", "negative-pads", one("ConvTranspose", FLOAT, KERNEL, pads=[0, 0, 0, -2])),
    ("ConvTranspose", "dynamic-kernel", one("ConvTranspose", FLOAT, FLOAT)),
    ("CumSum", "constant-input", one("CumSum", FLOAT, (TensorProto.INT64, []))),
    ("DequantizeLinear", "zero-point", one("DequantizeLinear", TensorProto.INT8, TWO_FLOATS, np.array([1], np.int8))),
    ("DequantizeLinear", "zero-point", one("DequantizeLinear", TensorProto.INT8, TWO_FLOATS, TensorProto.INT8)),
    ("DequantizeLinear", "constant-input", one("DequantizeLinear", TensorProto.INT8, FLOAT)),
    ("Dropout", "outputs", one("Dropout", FLOAT, outputs=2)),
    ("Dropout", "training", one("Dropout", FLOAT, None, np.array(True))),
    ("Dropout", "constant-input", one("Dropout", FLOAT, None, TensorProto.BOOL)),
    ("Einsum", "einsum", one("Einsum", FLOAT, FLOAT, equation="bCij,bCij->b")),
    ("LayerNormalization", "outputs", one("LayerNormalization", FLOAT, TWO_FLOATS, outputs=2)),
    ("LpNormalization", "norm-order", one("LpNormalization", FLOAT, p=3)),
    ("LpPool", "pool-dilation", one("LpPool", FLOAT, kernel_shape=[2, 2], dilations=[1, 2])),
    ("LpPool", "norm-order", one("LpPool", FLOAT, kernel_shape=[2, 2], p=4)),
    ("MaxPool", "outputs", one("MaxPool", FLOAT, kernel_shape=[2, 2], outputs=2)),
    ("MaxPool", "pool-dilation", one("MaxPool", FLOAT, kernel_shape=[2, 2], dilations=[2, 1])),
    ("MaxPool", "spatial-axes", one("MaxPool", (FLOAT, [1, 1, 2, 2, 2, 2]), kernel_shape=[2] * 4)),
    ("OneHot", "constant-input", one("OneHot", (TensorProto.INT64, [2]), (TensorProto.INT64, []), TWO_FLOATS)),
    ("Pad", "pad-axes", one("Pad", FLOAT, np.array([1, 1]), None, np.array([2]))),
    ("QuantizeLinear", "zero-point", one("QuantizeLinear", FLOAT, TWO_FLOATS, np.array([3], np.int8))),
    ("QuantizeLinear", "unsigned", one("QuantizeLinear", FLOAT, TWO_FLOATS, np.array([0], np.uint8))),
    ("QuantizeLinear", "unsigned", one("QuantizeLinear", FLOAT, TWO_FLOATS)),
    ("QuantizeLinear", "constant-input", one("QuantizeLinear", FLOAT, FLOAT, np.array([0], np.int8))),
    ("Resize", "resize", one("Resize", FLOAT, None, np.ones(4, np.float32), mode="cubic")),
    ("Resize", "resize", one("Resize", FLOAT, None, np.ones(4, np.float32), mode="linear", antialias=1)),
    ("Resize", "resize", one("Resize", FLOAT, None, TWO_FLOATS, mode="nearest", axes=[2, 3])),
    ("Resize", "resize", one("Resize", FLOAT, None, None, ONE, keep_aspect_ratio_policy="not_larger")),
    ("Resize", "resize", one("Resize", FLOAT, None, None, ONE, coordinate_transformation_mode="tf_crop_and_resize")),
    ("ScatterElements", "scatter-reduction", one("ScatterElements", FLOAT, TensorProto.INT64, FLOAT, reduction="add")),
    ("ScatterND", "scatter-reduction", one("ScatterND", FLOAT, TensorProto.INT64, FLOAT, reduction="mul")),
    ("Squeeze", "constant-input", one("Squeeze", FLOAT, (TensorProto.INT64, [1]))),
    ("TopK", "top-k", one("TopK", FLOAT, np.array([4000]), outputs=2)),
    ("TopK", "top-k", one("TopK", FLOAT, ONE, outputs=2, sorted=0)),
    ("Unsqueeze", "constant-input", one("Unsqueeze", FLOAT, (TensorProto.INT64, [1]))),
    *((name, "constant-input", one(name, FLOAT, (TensorProto.INT64, [1]))) for name in CONDITIONS if "Reduce" in name),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "rule", "model"), BAD, ids=[f"{o} {r} {i}" for i, (o, r, _) in enumerate(BAD)])
def test_a_condition_can_fail(operator: str, rule: str, model: onnx.ModelProto) -> None:
    (finding,) = [finding for finding in check(model, OLDEST) if finding.rule == rule]
    assert (finding.node, finding.operator, finding.version) == ("n", operator, OLDEST)
    assert finding.severity == ("note" if rule == "dynamic-kernel" else "error")


def test_every_condition_has_a_case() -> None:
    inner = {"Shape", "Size"}  # tested below: they need a second node
    assert {operator for operator, _, _ in BAD} | inner == set(CONDITIONS)
    for operator, conditions in CONDITIONS.items():
        cases = {rule for name, rule, _ in BAD if name == operator}
        assert operator in inner or len(cases) >= len(conditions)


GOOD = [
    one("MaxPool", FLOAT, kernel_shape=[2, 2], dilations=[1, 1]),
    one("Conv", FLOAT, KERNEL, pads=[1, 1, 1, 1]),
    one("QuantizeLinear", FLOAT, TWO_FLOATS, np.array([0], np.int8)),
    one("DequantizeLinear", TensorProto.INT8, TWO_FLOATS),
    one("Resize", FLOAT, None, np.ones(4, np.float32), mode="linear", axes=[0, 1, 2, 3]),
    one("ReduceMean", FLOAT, ONE),
    one("ScatterND", FLOAT, TensorProto.INT64, FLOAT),
    one("Einsum", FLOAT, FLOAT, equation="b...j, bj->b"),
    one("Cast", TensorProto.UINT8, to=FLOAT),
    one("TopK", FLOAT, np.array([5]), outputs=2),
    one("Shape", FLOAT),
]


@pytest.mark.parametrize("model", GOOD, ids=[model.graph.node[0].op_type for model in GOOD])
@pytest.mark.parametrize("version", NEWEST_OPSET)
def test_what_the_conditions_allow(model: onnx.ModelProto, version: str) -> None:
    assert check(model, version) == []


@pytest.mark.parametrize("operator", TYPES)
def test_a_type_can_be_wrong(operator: str) -> None:
    wrong, right = one(operator, *[TensorProto.DOUBLE] * 3, to=FLOAT), one(operator, *[code(operator)] * 3, to=FLOAT)
    assert "type" in rules(wrong, NEWEST)
    assert "type" not in rules(right, NEWEST)
    assert "operator" not in rules(right, OLDEST)


def code(operator: str) -> int:
    """Return an element type that the operator takes."""
    return next(TYPE_CODES[name] for name in ("float", "bool", "int8") if name in TYPES[operator])


@pytest.mark.parametrize("operator", UNSUPPORTED)
def test_an_operator_that_no_version_has(operator: str) -> None:
    for version in NEWEST_OPSET:
        (finding,) = check(one(operator, FLOAT), version)
        assert (finding.rule, finding.severity) == ("operator", "error")
        assert UNSUPPORTED[operator] in str(finding)


def test_an_operator_of_no_table() -> None:
    (finding,) = check(one("DFT", FLOAT), OLDEST)
    assert str(finding) == "TensorRT 10.3: error: DFT 'n': not supported; write it with supported operators [operator]"


@pytest.mark.parametrize("operator", SINCE)
def test_an_operator_that_came_later(operator: str) -> None:
    model = one(operator, FLOAT)
    assert "since" in rules(model, OLDEST)
    assert rules(model, SINCE[operator]) == rules(model, NEWEST) == set()


def test_a_type_that_came_later() -> None:
    model = one("Pow", TensorProto.INT64, TensorProto.INT64)
    assert rules(model, "10.13") == {"type"}
    assert rules(model, "10.16") == set()


@pytest.mark.parametrize(("version", "newest"), NEWEST_OPSET.items())
def test_opsets(version: str, newest: int) -> None:
    assert "opset" not in rules(one("Relu", FLOAT, opset=newest), version)
    assert "opset" in rules(one("Relu", FLOAT, opset=newest + 1), version)
    assert "opset" in rules(one("Relu", FLOAT, opset=8), version)


def test_pad_takes_axes_later() -> None:
    (model,) = [model for operator, rule, model in BAD if rule == "pad-axes"]
    assert rules(model, "10.13") == set()


def test_a_kernel_that_nodes_compute() -> None:
    model = one("Conv", FLOAT, KERNEL)
    node = model.graph.node[0]
    node.input[1] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["in1"], ["turned"], perm=[0, 1, 3, 2]))
    (finding,) = check(model, NEWEST)
    assert (finding.rule, finding.severity, finding.operator) == ("computed-kernel", "note", "Conv")


@pytest.mark.parametrize("operator", ["Shape", "Size"])
def test_shapes_of_inner_tensors(operator: str) -> None:
    model = one(operator, FLOAT)
    model.graph.node[0].input[0] = "inner"
    model.graph.node.insert(0, helper.make_node("Relu", ["in0"], ["inner"]))
    (finding,) = check(model, NEWEST)
    assert (finding.rule, finding.severity) == ("shape-arithmetic", "note")


def test_other_rules_about_the_whole() -> None:
    assert rules(one("Gelu", FLOAT, domain="com.microsoft")) == {"domain"}
    assert rules(one("Relu", (FLOAT, [1] * 9))) == {"rank"}
    assert rules(one("Mul", FLOAT, np.ones(3))) == {"double"}
    steep = check(one("Mul", FLOAT, np.array(2.0**100, np.float32)), NEWEST)
    assert [(finding.rule, finding.severity) for finding in steep] == [("exact-float32", "note")]
    assert rules(one("HardSigmoid", FLOAT, alpha=2.0**100)) == {"exact-float32"}


def test_all_versions_by_default() -> None:
    findings = check(one("MaxUnpool", FLOAT))
    assert [finding.version for finding in findings] == list(NEWEST_OPSET)
    assert findings[0] == Finding(
        "n", "MaxUnpool", "operator", f"not supported; {UNSUPPORTED['MaxUnpool']}", OLDEST, "error"
    )


def test_an_unknown_version() -> None:
    with pytest.raises(InputError, match=r"unknown TensorRT version '10\.2'; nearest: 10\.3"):
        check(one("Relu", FLOAT), "10.2")
