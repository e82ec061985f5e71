"""A user's own ONNX file: renamed, completed, checked; what is no image classifier gets one clear line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import ExportError
from export.from_onnx import load_classifier
from export.gradients import build_explainer

SIZE = (16, 16)
GENERATOR = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def classifier(
    image: str = "x",
    logits: str = "y",
    shape: tuple[object, ...] = ("batch", 3, "h", "w"),
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Conv, ReLU, mean, Gemm; a second output, and a shape computed at run time, as real exporters leave them."""
    nodes = [
        helper.make_node("Conv", [image, "w1"], ["image_1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["image_1"], ["logits"]),  # an inner tensor has the name the output will get
        helper.make_node("GlobalAveragePool", ["logits"], ["pooled"]),
        helper.make_node("Shape", [image], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target_shape"], axis=0),
        helper.make_node("Reshape", ["pooled", "target_shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2"], [logits]),
        helper.make_node("Softmax", [logits], ["probabilities"]),
    ]
    tensors = {"w1": weights(4, 3, 3, 3), "w2": weights(4, 5), "zero": np.array([0]), "rest": np.array([4])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(image, element, shape)],
        [helper.make_tensor_value_info(name, element, None) for name in (logits, "probabilities")],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result


@pytest.mark.parametrize(("image", "logits"), [("x", "y"), ("image", "y"), ("logits_in", "image_out")])
def test_names_shapes_and_values(tmp_path: Path, image: str, logits: str) -> None:
    original = classifier(image, logits)
    model = load_classifier(save(original, tmp_path), SIZE)
    (found,), (output,) = model.graph.input, model.graph.output
    assert (found.name, output.name) == ("image", "logits")
    batch, *rest = found.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [3, 16, 16]
    assert output.type.tensor_type.shape.dim[-1].dim_value == 5
    images = weights(3, 3, 16, 16)
    assert np.allclose(run(model, images), run(original, images), atol=1e-6)
    onnx.checker.check_model(build_explainer(model), full_check=True)


def test_a_fixed_batch_of_one_becomes_dynamic(tmp_path: Path) -> None:
    model = load_classifier(save(classifier(shape=(1, 3, 16, 16)), tmp_path), SIZE)
    assert run(model, weights(4, 3, 16, 16)).shape == (4, 5)


def test_external_weights_beside_the_model_come_inside(tmp_path: Path) -> None:
    original = classifier()
    path = tmp_path / "model.onnx"
    onnx.save_model(copy.deepcopy(original), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    model = load_classifier(path, SIZE)
    images = weights(2, 3, 16, 16)
    assert np.allclose(run(model, images), run(original, images), atol=1e-6)


def external_data_outside(folder: Path) -> Path:
    (folder / "inner").mkdir()
    path = folder / "inner" / "model.onnx"
    onnx.save_model(classifier(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load_model(path, load_external_data=False)
    (folder / "inner" / "weights.bin").rename(folder / "weights.bin")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    return path


def truncated(folder: Path) -> Path:
    path = save(classifier(), folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def text_file(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_text("this is not protobuf")
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"")
    return path


def two_images(folder: Path) -> Path:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["batch", 3, "h", "w"]))
    return save(model, folder)


def no_logits(folder: Path) -> Path:
    model = classifier()
    del model.graph.node[2:], model.graph.output[1:]
    model.graph.output[0].name = "logits"
    return save(model, folder)


def local_function(folder: Path) -> Path:
    model = classifier()
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [body], [helper.make_opsetid("", 17)]))
    model.graph.node[1].op_type, model.graph.node[1].domain = "F", "own"
    return save(model, folder)


def grey_images(folder: Path) -> Path:
    return save(classifier(shape=("batch", 1, "h", "w")), folder)


def other_size(folder: Path) -> Path:
    return save(classifier(shape=("batch", 3, 24, 24)), folder)


def doubles(folder: Path) -> Path:
    model = classifier(element=TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float64), tensor.name))
    return save(model, folder)


def a_sequence(folder: Path) -> Path:
    model = classifier()
    node = model.graph.node[1]
    del model.graph.node[1]
    model.graph.node.insert(1, helper.make_node("SequenceConstruct", [node.input[0]], ["sequence"]))
    model.graph.node.insert(2, helper.make_node("SequenceAt", ["sequence", "zero0"], [node.output[0]]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero0"))
    return save(model, folder)


def missing(folder: Path) -> Path:
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "cannot be read"),
        (text_file, "not an ONNX model"),
        (empty_file, "not an ONNX model"),
        (truncated, "not an ONNX model, or is truncated"),
        (external_data_outside, "weights in other files"),
        (two_images, "exactly one image input"),
        (no_logits, r"logits are \[N, K\]"),
        (local_function, "local functions"),
        (grey_images, "RGB images"),
        (other_size, "RGB images"),
        (doubles, "float32"),
        (a_sequence, "(?i)seq"),
    ],
)
def test_one_clear_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        load_classifier(make(tmp_path), SIZE)
    assert "\n" not in str(caught.value)
