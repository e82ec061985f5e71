"""FP16 is strongly typed, casts at the edges alone, and adds up in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from calibration.half import to_half
from calibration.probe import HERE, session
from calibration.quantise import Quantised
from export.gradients import build_explainer
from export.tensorrt_support import check, errors


@pytest.fixture(scope="module")
def half(classifier: onnx.ModelProto) -> Quantised:
    return to_half(classifier)


def test_edges_are_float32_and_nothing_between(half: Quantised) -> None:
    for graph, casts in ((half.classifier, 2), (half.explainer, 5)):
        onnx.checker.check_model(graph, full_check=True)
        assert errors(check(graph)) == []
        kinds = {value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)}
        assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}
        stored = {t.data_type for t in graph.graph.initializer}
        assert TensorProto.FLOAT16 in stored and TensorProto.FLOAT not in stored
        assert sum(node.op_type == "Cast" for node in graph.graph.node) == casts


def test_values_are_those_of_fp32_up_to_half_precision(half: Quantised, classifier: onnx.ModelProto) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    feeds = {"image": images, "target": np.array([0, 1, 2]), "baseline": np.zeros_like(images), **HERE}
    feeds["noise"] = np.zeros((1, 3, 32, 32), np.float32)
    plain, rounded = (
        session(graph, integers=False).run(["logits", "attribution"], feeds)
        for graph in (build_explainer(classifier), half.explainer)
    )
    assert 0 < np.abs(plain[0] - rounded[0]).max() / np.abs(plain[0]).max() < 5e-3
    error = np.linalg.norm(plain[1] - rounded[1]) / np.linalg.norm(plain[1])
    assert 0 < error < 0.2
    assert np.allclose(session(half.classifier, integers=True).run(None, {"image": images})[0], rounded[0], atol=1e-2)
