"""Every gradient rule alone: against central differences in double precision, and on onnxruntime in float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from export.gradients import RULES, add_input_gradient
from export.gradients.prepare import prepare
from tests.export.gradients.double import Tensor, evaluate
from tests.export.gradients.rule_case import Case, model
from tests.export.gradients.rule_cases_dense import DENSE
from tests.export.gradients.rule_cases_shape import SHAPED

OPSET = 20
NEWEST = 26  # the newest that onnxruntime 1.31 reads
CASES = [*DENSE, *SHAPED]
STEP = 1e-5


def opset_for(c: Case, wanted: int = OPSET) -> int:
    return min(max(wanted, c.since), c.until)


def in_double(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model with its input, output and weights in double."""
    wide = onnx.ModelProto()
    wide.CopyFrom(source)
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in wide.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and not scales_of_a_resize(wide.graph, tensor.name):
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return wide


def scales_of_a_resize(graph: onnx.GraphProto, name: str) -> bool:
    return any(node.op_type == "Resize" and name in node.input[2:3] for node in graph.node)


def finished(c: Case, opset: int) -> onnx.ModelProto:
    """Return the case's classifier, its head fitted to the size of ``y``."""
    if "logits" in c.text:
        return model(c, opset, head=1)
    return model(c, opset, head=prepare(model(c, opset)).shapes["flat"][1])


def images(c: Case, count: int) -> Tensor:
    """Return float32 random images, as doubles."""
    return torch.randn(count, *c.shape, generator=torch.Generator().manual_seed(7)).double()


def central_differences(classifier: onnx.ModelProto, image: Tensor, target: int) -> Tensor:
    """Return d logits[target] / d image; all displaced copies of the image are one batch."""
    n = image.numel()
    offsets = torch.eye(n, dtype=torch.float64).reshape(n, *image.shape) * STEP
    logits = evaluate(classifier, {"x": torch.cat([image + offsets, image - offsets])}, "logits")["logits"][:, target]
    return ((logits[:n] - logits[n:]) / (2 * STEP)).reshape(image.shape)


def run(classifier: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(classifier.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def error(found: np.ndarray | Tensor, expected: np.ndarray | Tensor) -> float:
    """Return the relative L2 error; the absolute one where ``expected`` is zero, as behind windows of padding alone."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


@pytest.mark.parametrize("c", CASES, ids=str)
def test_rule_against_central_differences_and_on_onnxruntime(c: Case) -> None:
    assert check(c, opset_for(c)) > 0  # a gradient of zero proves nothing


def check(c: Case, opset: int) -> float:
    """Compare the case's gradient with central differences and with onnxruntime; return its norm."""
    classifier = finished(c, opset)
    batch = images(c, 3)
    target = np.array([1, 0, 2])
    wide = in_double(classifier)
    gradient_graph = add_input_gradient(wide)
    found = evaluate(gradient_graph, {"x": batch, "target": target}, "gradient", "logits")
    forward = prepare_only(wide)
    for row in (0, 2):
        expected = central_differences(forward, batch[row], int(target[row]))
        assert error(found["gradient"][row], expected) < 1e-7
    graph = add_input_gradient(classifier)
    onnx.checker.check_model(graph, full_check=True)
    feeds = {"x": batch.numpy().astype(np.float32), "target": target}
    single = run(graph, feeds)
    assert error(run(classifier, {"x": feeds["x"]})["logits"], found["logits"]) < 1e-5  # the interpreter reads it right
    assert error(single["gradient"], found["gradient"]) < 1e-5
    return float(found["gradient"].norm())


@pytest.mark.parametrize(
    "opset", [13, *(pytest.param(o, marks=pytest.mark.slow) for o in (15, 16, 17, 19, 21, 23)), 18, NEWEST]
)
def test_every_operator_at_every_opset(opset: int) -> None:
    """What is emitted is valid, and right, at each opset: operators changed their form between 13 and the newest."""
    seen = set()
    for c in CASES:
        if c.form in seen or not c.since <= opset <= c.until:
            continue
        seen.add(c.form)
        classifier = finished(c, opset)
        batch, target = images(c, 2), np.array([3, 1])
        expected = evaluate(add_input_gradient(in_double(classifier)), {"x": batch, "target": target}, "gradient")
        graph = add_input_gradient(classifier)
        onnx.checker.check_model(graph, full_check=True)
        found = run(graph, {"x": batch.numpy().astype(np.float32), "target": target})
        assert error(found["gradient"], expected["gradient"]) < 1e-5, f"{c} at opset {opset}"
    assert len(seen) > 100


def prepare_only(source: onnx.ModelProto) -> onnx.ModelProto:
    return prepare(source).model


def test_every_row_of_the_table_has_a_case() -> None:
    covered = {node.op_type for c in CASES for node in model(c, opset_for(c)).graph.node}
    assert set(RULES) - covered == {"QuantizeLinear", "DequantizeLinear"}  # whose test is test_quantised
