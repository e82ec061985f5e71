"""The desktop tells whether a device will build engines of a bundle."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edge_runtime.backends.keys import Profile
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError, InputError
from export.bundle import Contents, write_bundle
from export.parity import random_images
from export.tensorrt import check_bundle, shape_problems
from export.tensorrt_support import NEWEST_OPSET
from tests.edge_runtime.tiny_bundle import SPEC, TinyNetwork, tiny_files, tiny_network, write_tiny_bundle
from tests.export.gradients.classifiers import classifier


@pytest.fixture(scope="module")
def network() -> TinyNetwork:
    return tiny_network()


def test_the_support_table_knows_what_jetpack_brings() -> None:
    assert list(NEWEST_OPSET) == ["10.3", "10.13", "10.16", "11.4"]


def test_an_exported_bundle_builds_everywhere(tmp_path: Path) -> None:
    from edge_runtime.manifest import InputSpec

    _, model = classifier("vgg16")
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    labels = tuple(str(index) for index in range(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value))
    contents = Contents(
        name="small",
        input=InputSpec(height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        labels=labels,
        golden_images=random_images(2, (size, size)),
    )
    reports = check_bundle(open_bundle(write_bundle(tmp_path / "bundle", model, contents)))
    assert [report.file for report in reports] == ["classifier.onnx", "explainer.onnx"]
    assert not any(report.refused or report.shapes for report in reports)


def test_one_version(tmp_path: Path, network: TinyNetwork) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny", tiny_files(network)))
    assert not any(report.refused for report in check_bundle(bundle, "10.3"))
    with pytest.raises(InputError, match=r"unknown TensorRT version '9\.0'"):
        check_bundle(bundle, "9.0")


def test_a_node_that_tensorrt_lacks(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    model = onnx.load_model_from_string(files["classifier.onnx"])
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Bernoulli"
    files["classifier.onnx"] = model.SerializeToString()
    first, second = check_bundle(open_bundle(write_tiny_bundle(tmp_path / "tiny", files)), "10.3")
    assert first.refused and "Bernoulli" in str(first.findings[0])
    assert not second.refused


def test_inputs_of_other_shapes(network: TinyNetwork) -> None:
    model = onnx.load_model_from_string(tiny_files(network)["classifier.onnx"])
    profiles = (Profile(images=(1, 2, 4)),)
    assert shape_problems(model, profiles, SPEC) == []
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert shape_problems(model, profiles, SPEC) == [
        "input 'image' is declared [1, 3, 8, 8] and cannot be [2, 3, 8, 8]",
        "input 'image' is declared [1, 3, 8, 8] and cannot be [4, 3, 8, 8]",
    ]


def test_a_file_that_is_no_model(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network) | {"classifier.onnx": b"\xff\xff"}
    with pytest.raises(BundleError, match=r"classifier\.onnx is not an ONNX model"):
        check_bundle(open_bundle(write_tiny_bundle(tmp_path / "tiny", files)))
