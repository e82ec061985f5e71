"""Models that were exported for a fixed number of images take any number afterwards, or say why they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ExportError
from export.batch import batched_logits, fixed_batch, make_batch_dynamic
from export.gradients import add_input_gradient, build_explainer
from tests.export.gradients.classifiers import run

GENERATOR = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def fixed(nodes: list[onnx.NodeProto], batch: Any = 1, classes: int = 5, **constants: np.ndarray) -> onnx.ModelProto:
    """Return a model from image [batch, 3, 4, 4] to logits."""
    tensors = {name: numpy_helper.from_array(value, name) for name, value in constants.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        list(tensors.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def reshaped(*shape: int, batch: int = 1) -> onnx.ModelProto:
    """Flatten by a Reshape to a written-out shape, then one matrix product."""
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    return fixed(nodes, batch, shape=np.array(shape), w=weights(48, 5))


def attention(batch: int = 1) -> onnx.ModelProto:
    """Two heads of attention over 16 positions, the heads merged into the batch as exporters write it."""
    nodes = [
        helper.make_node("Reshape", ["image", "rows"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["positions"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["positions", "embed"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "split"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["apart"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["apart", "merged"], ["q"]),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
        helper.make_node("MatMul", ["p", "q"], ["attended"]),
        helper.make_node("Reshape", ["attended", "back"], ["out"]),
        helper.make_node("MatMul", ["out", "w"], ["logits"]),
    ]
    constants = {
        "rows": np.array([batch, 3, 16]),
        "embed": weights(3, 8),
        "split": np.array([batch, 16, 2, 4]),
        "merged": np.array([batch * 2, 16, 4]),
        "back": np.array([batch, 128]),
        "w": weights(128, 5),
    }
    return fixed(nodes, batch, **constants)


MODELS = {
    "written out": reshaped(1, 48),
    "inferred width": reshaped(1, -1),
    "copied batch": reshaped(0, 48),
    "inferred batch": reshaped(-1, 48),
    "two images": reshaped(2, 48, batch=2),
    "attention": attention(),
    "attention of four images": attention(4),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_image_keeps_its_logits(name: str) -> None:
    model = MODELS[name]
    before = model.SerializeToString()
    dynamic = make_batch_dynamic(model)
    assert model.SerializeToString() == before
    assert fixed_batch(dynamic) is None
    images = weights(5, 3, 4, 4)
    expected = batched_logits(model)(images)
    assert expected.shape == (5, 5)
    for count in (1, 4, 5):
        assert np.allclose(run(dynamic, image=images[:count])["logits"], expected[:count], atol=1e-5)


def test_what_became_dynamic_can_be_explained() -> None:
    dynamic = make_batch_dynamic(attention())
    images = weights(3, 3, 4, 4)
    target = np.array([0, 2, 4])
    gradient = run(add_input_gradient(dynamic), image=images, target=target)["gradient"]
    one = np.ones(1, np.float32)
    noise = np.zeros((1, 3, 4, 4), np.float32)
    feeds = {"image": images, "target": target, "baseline": noise.repeat(3, 0), "scale": one, "weight": one}
    assert np.allclose(run(build_explainer(dynamic), noise=noise, **feeds)["attribution"], gradient, atol=1e-5)


def test_a_constant_that_is_reshaped_stays() -> None:
    nodes = [
        helper.make_node("Reshape", ["w", "shape"], ["matrix"]),
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    dynamic = make_batch_dynamic(fixed(nodes, w=weights(1, 240), shape=np.array([48, 5])))
    assert dynamic.graph.node[0].input[1] == "shape"


def test_images_that_mix_are_refused() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0, 2, 3], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    message = r"fixed to a batch of 1, and at 2 it gives other logits \(by .*\): its images do not stay apart; export"
    with pytest.raises(ExportError, match=message) as caught:
        make_batch_dynamic(fixed(nodes, w=weights(48, 5)))
    assert "\n" not in str(caught.value)


def test_a_batch_that_is_squeezed_away_is_refused() -> None:
    nodes = [
        helper.make_node("Squeeze", ["image", "first"], ["one"]),
        helper.make_node("Flatten", ["one"], ["flat"], axis=0),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    message = r"fixed to a batch of 1 and does not run at 2 \(.*\); export the model with a dynamic batch"
    with pytest.raises(ExportError, match=message) as caught:
        make_batch_dynamic(fixed(nodes, first=np.array([0]), w=weights(48, 5)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (8, 8), ("N", None), (None, None)])
def test_fixed_batch(batch: Any, expected: int | None) -> None:
    assert fixed_batch(fixed([], batch)) == expected


def test_fixed_batch_of_two_inputs_is_not_decided_here() -> None:
    model = reshaped(1, 48)
    model.graph.input.append(model.graph.input[0])
    model.graph.input[1].name = "second"
    assert fixed_batch(model) is None
