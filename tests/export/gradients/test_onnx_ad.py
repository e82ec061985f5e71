"""Differential test: onnx-ad, another differentiator of ONNX graphs, on what it covers (a fixed batch of one)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ad
import pytest

from export.gradients import add_input_gradient
from tests.export.gradients.classifiers import relative, run
from tests.export.gradients.exactness import CLASSES
from tests.export.gradients.rule_case import Case
from tests.export.gradients.rule_cases_dense import DENSE
from tests.export.gradients.rule_cases_shape import SHAPED
from tests.export.gradients.test_rules import finished, opset_for
from tests.export.gradients.test_unseen import traced
from tests.export.gradients.unseen import unseen

# onnx-ad 0.3 disagrees here with central differences, which `test_rules` holds our rules to: it misplaces the gradient
# of strided windows with uneven padding or rows left over, and builds graphs that do not load.
WRONG = {
    "Conv<strides=[4,4], pads=[2,2,2,2]>(x, w)-3x13x12",
    "Conv<strides=[3,2], pads=[0,2,1,3]>(x, w)-3x9x10",
    "Conv<strides=[1,3], pads=[2,0,0,1]>(x, w)-3x9x8",
    "Conv<pads=[0,4,3,0], strides=[2,1]>(x, w)-3x6x5",
    "Conv<dilations=[3,2], strides=[2,3], pads=[1,2,3,0]>(x, w)-3x10x9",
    "Conv<pads=[2,0,0,0,0,0], strides=[2,1,1]>(r, w, b)-3x6x5",
    "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,0,1]>(x)-3x7x8",
    "AveragePool<kernel_shape=[3], strides=[2], pads=[1,0]>(r)-3x6x5",
    "Pad(x, p, v)-3x6x5",
    "Pad(x, p)-3x6x5",
    "Tanh(l)-3x6x5",
}


def with_one_image(model: onnx.ModelProto, classes: int) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    logits = fixed.graph.output[0]
    logits.CopyFrom(onnx.helper.make_tensor_value_info(logits.name, onnx.TensorProto.FLOAT, [1, classes]))
    del fixed.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(fixed)


def by_onnx_ad(model: onnx.ModelProto, image: np.ndarray, target: int) -> np.ndarray:
    """Return d logits[target] / d image; skip the test where onnx-ad does not know an operator."""
    logits = model.graph.output[0]
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    try:
        reverse = onnx_ad.reverse(model, inputs=[model.graph.input[0].name], outputs=[logits.name], layout="onnx")
    except onnx_ad.UnsupportedOperator as error:
        pytest.skip(f"onnx-ad: {error}")
    seed = np.zeros((1, classes, 1), np.float32)
    seed[0, target] = 1
    name = next(value.name for value in reverse.graph.input if value.name.startswith("adj"))
    found = run(reverse, **{model.graph.input[0].name: image, name: seed})
    return found[f"adj_{model.graph.input[0].name}"].reshape(image.shape)


@pytest.mark.parametrize("c", [c for c in (*DENSE, *SHAPED) if str(c) not in WRONG], ids=str)
def test_rules_agree(c: Case) -> None:
    model = finished(c, opset_for(c, 17))
    image = np.random.default_rng(3).standard_normal((1, *c.shape)).astype(np.float32)
    expected = by_onnx_ad(with_one_image(model, 4), image, 2)
    found = run(add_input_gradient(model), x=image, target=np.array([2]))["gradient"]
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["deconvolution", "norms", "resampling", "attention"])
def test_networks_agree(name: str) -> None:
    module, size = unseen(name)
    model = traced(module, size, 17)
    image = np.random.default_rng(3).standard_normal((1, 3, *size)).astype(np.float32)
    expected = by_onnx_ad(with_one_image(model, CLASSES), image, 5)
    found = run(add_input_gradient(model), pixels=image, target=np.array([5]))["gradient"]
    assert relative(found, expected) < 1e-4
