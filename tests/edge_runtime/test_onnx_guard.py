"""Models that an engine must not see are refused from their bytes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import BundleError
from edge_runtime.onnx_guard import refuse_unsafe
from tests.edge_runtime.tiny_bundle import TinyNetwork, classifier_model, explainer_model


def test_ordinary_models_pass(network: TinyNetwork) -> None:
    for model in (classifier_model(network), explainer_model(network)):
        refuse_unsafe(model.SerializeToString(), "model.onnx")


def test_a_tensor_called_location_passes(network: TinyNetwork) -> None:
    model = classifier_model(network)
    model.graph.node[0].name = "location"
    model.graph.doc_string = "the location of the sign"
    refuse_unsafe(model.SerializeToString(), "model.onnx")


def test_external_data_of_an_initializer(tmp_path: Path, network: TinyNetwork) -> None:
    onnx.save(classifier_model(network), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(BundleError, match=r"m\.onnx keeps weights in external files"):
        refuse_unsafe((tmp_path / "m.onnx").read_bytes(), "m.onnx")


def test_external_data_of_a_constant_with_odd_varints(network: TinyNetwork) -> None:
    model = classifier_model(network)
    value = numpy_helper.from_array(np.ones(4, np.float32), "value")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["odd"], value=value))
    data = model.SerializeToString()
    with pytest.raises(BundleError, match="external files"):
        refuse_unsafe(data, "m.onnx")
    # The same entry with its tag and length spelt in more bytes than needed, as only a forger writes them.
    forged = b"\x8a\x00\x88\x80\x00location"
    with pytest.raises(BundleError, match="external files"):
        refuse_unsafe(b"\x3a" + bytes([len(forged)]) + forged, "m.onnx")


def test_local_functions(network: TinyNetwork) -> None:
    model = classifier_model(network)
    identity = helper.make_node("Identity", ["a"], ["b"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "same", ["a"], ["b"], [identity], opset))
    with pytest.raises(BundleError, match="holds local functions"):
        refuse_unsafe(model.SerializeToString(), "m.onnx")


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x08\x0a", b"hello world", b"\x3a\xff\x01", b"\x3b", b"\xff" * 40])
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"m\.onnx is not an ONNX model"):
        refuse_unsafe(data, "m.onnx")


def test_every_truncation_of_the_outer_level_is_found(network: TinyNetwork) -> None:
    data = classifier_model(network).SerializeToString()
    graph_end = len(data)
    for cut in range(1, graph_end, 97):
        with pytest.raises(BundleError, match="is not an ONNX model"):
            refuse_unsafe(data[:cut], "m.onnx")
