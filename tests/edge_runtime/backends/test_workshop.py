"""All engines of a bundle, ahead of their first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.backends.keys import BuildOptions
from edge_runtime.backends.workshop import build_bundle
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, InputError
from edge_runtime.explainer import Explainer
from tests.edge_runtime.backends.conftest import Device
from tests.edge_runtime.tiny_bundle import TinyNetwork, tiny_files, write_tiny_bundle


def test_nothing_is_left_to_build_at_the_first_start(device: Device, golden: Bundle) -> None:
    heard: list[str] = []
    found = build_bundle(golden, tell=heard.append)
    assert heard == [each.file for each in found] == ["classifier.onnx", "explainer.onnx"]
    assert all(each.built and each.size > 1000 and len(each.sha256) == 64 for each in found)
    Classifier(golden, "tensorrt")
    Explainer(golden, "tensorrt")
    assert device.faults.counts["build_serialized_network"] == 2


def test_what_is_there_is_not_built_again_unless_asked(device: Device, golden: Bundle) -> None:
    first = build_bundle(golden)
    again = build_bundle(golden)
    assert [each.built for each in again] == [False, False]
    assert [each.sha256 for each in again] == [each.sha256 for each in first]
    assert all(each.built for each in build_bundle(golden, force=True))
    assert all(each.built for each in build_bundle(golden, options=BuildOptions(workspace_mib=64)))


def test_a_precision_that_the_bundle_lacks(device: Device, golden: Bundle) -> None:
    with pytest.raises(InputError, match="unknown precision of this bundle 'int8'"):
        build_bundle(golden, ["int8"])


def test_every_precision_of_a_bundle(device: Device, int8_bundle: Bundle) -> None:
    names = [each.file for each in build_bundle(int8_bundle)]
    assert names == ["classifier.onnx", "explainer.onnx", "classifier.int8.onnx", "explainer.int8.onnx"]
    assert [each.precision for each in build_bundle(int8_bundle, ["int8"])] == ["int8", "int8"]


@pytest.fixture
def int8_bundle(tmp_path: Path, network: TinyNetwork) -> Bundle:
    """A bundle that calls the same graphs INT8 too; what is in them is of no matter here."""
    from edge_runtime.manifest import Gate, GateMeasures, Precision, PrecisionParity

    files = tiny_files(network)
    for name in ("classifier", "explainer"):
        files[f"{name}.int8.onnx"] = files[f"{name}.onnx"] + b""
    entry = Precision(
        gate=Gate(),
        measured=GateMeasures(images=1, accuracy_drop=0, rank_correlation=1, road_auc_increase=0),
        parity=PrecisionParity(images=1, logits=0, same_class=1),
    )
    return open_bundle(write_tiny_bundle(tmp_path / "int8", files, precisions={"int8": entry}))


def test_an_unsafe_model_never_reaches_tensorrt(device: Device, tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network) | {"classifier.onnx": b"hello world"}
    with pytest.raises(BundleError, match="is not an ONNX model"):
        build_bundle(open_bundle(write_tiny_bundle(tmp_path / "bundle", files)))
    assert "build_serialized_network" not in device.faults.counts
