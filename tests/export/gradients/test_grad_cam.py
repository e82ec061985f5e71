"""Grad-CAM equals Captum's LayerGradCam, at the last feature map and any other; what has none gets one clear line."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from captum.attr import LayerGradCam
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ExportError, InputError
from export.gradients import build_grad_cam
from export.gradients.grad_cam import feature_maps, last_feature_map
from export.gradients.prepare import prepare
from tests.export.gradients.classifiers import CLASSES, classifier, images, relative, run

LAYERS = {"vgg16": lambda m: m.features[29], "resnet18": lambda m: m.layer4}


@pytest.mark.parametrize("architecture", LAYERS)
def test_the_last_feature_map_equals_captum(architecture: str) -> None:
    module, model = classifier(architecture)
    batch = images(architecture, 3)
    target = np.array([0, 4, CLASSES - 1])
    found = run(build_grad_cam(model), image=batch, target=target)
    layer = LayerGradCam(module, LAYERS[architecture](module))
    expected = layer.attribute(torch.from_numpy(batch), target=torch.from_numpy(target))
    assert expected.shape == (3, 1, 2, 2)  # a map with a single position would hide a mistake in the mean
    assert relative(found["cam"], expected) < 1e-4
    assert relative(found["logits"], module(torch.from_numpy(batch))) < 1e-4


def test_an_earlier_feature_map_by_name() -> None:
    module, model = classifier("resnet18")
    batch = images("resnet18", 2)
    target = np.array([1, 7])
    p = prepare(model)
    (last_of_stage, *_) = [n for n in reversed(feature_maps(p)) if p.shapes[n][2:] == (8, 8)]
    found = run(build_grad_cam(model, tensor=last_of_stage), image=batch, target=target)["cam"]
    expected = LayerGradCam(module, module.layer2).attribute(torch.from_numpy(batch), target=torch.from_numpy(target))
    assert relative(found, expected) < 1e-4


def tail(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    """Return a model of ``nodes`` from image [N, 3, 8, 8] to logits [N, 5]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


HEAD = [
    helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("MatMul", ["flat", "w"], ["logits"]),
]


def test_channels_last_in_between_keeps_the_rows_and_columns() -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "mix"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["map"], perm=[0, 3, 1, 2]),
    ]
    p = prepare(tail([*nodes, *HEAD], mix=ones(3, 4), w=ones(4, 5)))
    assert feature_maps(p) == ["map", "pooled"]
    assert last_feature_map(p) == "map"


def test_a_gate_of_one_value_per_channel_is_no_feature_map() -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["gate"]),
        helper.make_node("Mul", ["image", "gate"], ["map"]),
    ]
    assert last_feature_map(prepare(tail([*nodes, *HEAD], w=ones(3, 5)))) == "map"


def test_attention_has_no_default_feature_map() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["patches"], strides=[4, 4]),
        helper.make_node("Reshape", ["patches", "rows"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "keys"], ["scores"]),
        helper.make_node("MatMul", ["scores", "tokens"], ["attended"]),
        helper.make_node("ReduceMean", ["attended", "last"], ["flat"], keepdims=0),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    weights = {"k": ones(6, 3, 4, 4), "rows": np.array([0, 6, 4]), "last": np.array([2]), "w": ones(6, 5)}
    model = tail(nodes, **weights)
    with pytest.raises(ExportError, match=r"attention .* after its last feature map 'patches'; name the feature map"):
        build_grad_cam(model)
    cam = run(build_grad_cam(model, tensor="patches"), image=ones(2, 3, 8, 8), target=np.array([0, 1]))["cam"]
    assert cam.shape == (2, 1, 2, 2)


def test_a_model_without_feature_maps() -> None:
    model = tail([helper.make_node("Flatten", ["image"], ["flat"]), HEAD[2]], w=ones(192, 5))
    with pytest.raises(ExportError, match="no feature map"):
        build_grad_cam(model)


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        ("mapp", InputError, "unknown tensor 'mapp'; nearest: map"),
        ("flat", ExportError, "'flat' is no feature map"),
        ("w", ExportError, "'w' is no feature map"),
    ],
)
def test_a_tensor_that_does_not_serve(tensor: str, error: type[Exception], message: str) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["map"])]
    with pytest.raises(error, match=message):
        build_grad_cam(tail([*nodes, *HEAD], w=ones(3, 5)), tensor=tensor)


def test_a_taken_name() -> None:
    nodes = [helper.make_node("Relu", ["image"], ["cam"]), helper.make_node("Relu", ["cam"], ["map"])]
    with pytest.raises(ExportError, match="already has a tensor named 'cam'"):
        build_grad_cam(tail([*nodes, *HEAD], w=ones(3, 5)))
