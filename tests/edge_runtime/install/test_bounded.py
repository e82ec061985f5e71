"""A bundle that would take the machine's memory or time is stopped by its own process's limits."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_runtime.bundle import open_bundle
from edge_runtime.errors import InputError, InstallError
from edge_runtime.install import Limits, Places, bounded_self_test, install_bundle
from edge_runtime.self_test import EXPLAINED, self_test
from tests.conftest import no_gpu
from tests.edge_runtime.tiny_bundle import SIZE, TinyNetwork, tiny_files, write_tiny_bundle
from tests.edge_runtime.trust.publisher import golden_bundle


def bundle_of(folder: Path, network: TinyNetwork, classifier: onnx.ModelProto) -> Path:
    """Return a bundle whose classifier is ``classifier``; its golden set is another model's."""
    good = golden_bundle(folder.with_name("good"), network)
    files = {**tiny_files(network), "golden.npz": (good / "golden.npz").read_bytes()}
    return write_tiny_bundle(folder, {**files, "classifier.onnx": classifier.SerializeToString()})


def hungry_model(elements: int) -> onnx.ModelProto:
    """A model of a few hundred bytes that makes a constant of ``elements`` floats: 25 GB for 6.4e9."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Slice", ["flat", "begin", "end", "axis"], ["few"]),
        helper.make_node("Add", ["few", "sum"], ["logits"]),
    ]
    constants = {"shape": [elements], "begin": [0], "end": [5], "axis": [1]}
    tensors = [helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "hungry", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def nested_model(depth: int) -> onnx.ModelProto:
    """Each local function calls the one below it twice: two kilobytes that unfold to 2 ** depth nodes."""
    domain = "nested"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    functions = [helper.make_function(domain, "f0", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], opsets)]
    for level in range(1, depth):
        calls = [
            helper.make_node(f"f{level - 1}", ["x"], ["m"], domain=domain),
            helper.make_node(f"f{level - 1}", ["m"], ["y"], domain=domain),
        ]
        functions.append(helper.make_function(domain, f"f{level}", ["x"], ["y"], calls, opsets))
    model = hungry_model(1)
    model.graph.node.insert(0, helper.make_node(f"f{depth - 1}", ["image"], ["copy"], domain=domain))
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def test_a_good_bundle_passes(tmp_path: Path, network: TinyNetwork) -> None:
    result = bounded_self_test(golden_bundle(tmp_path / "bundle", network), Limits(), "cpu", "fp32", 1)
    assert result.passed
    assert result.images == 4


@pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")
def test_auto_is_settled_in_the_child(
    tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = bounded_self_test(golden_bundle(tmp_path / "bundle", network), Limits(), "auto", "fp32", 1)
    assert result.passed and result.provider == "cpu"
    assert [each.provider for each in result.passed_over] == ["tensorrt", "cuda"]
    assert caplog.messages == [str(each) for each in result.passed_over]


def test_the_first_images_alone_deviate_as_among_all(tmp_path: Path, network: TinyNetwork) -> None:
    bundle = open_bundle(golden_bundle(tmp_path / "bundle", network))
    arrays = dict(np.load(bundle.path / "golden.npz"))
    arrays["attribution_vg"][3] *= 2  # beyond what is explained
    np.savez(tmp_path / "golden.npz", **arrays)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files["golden.npz"] = (tmp_path / "golden.npz").read_bytes()
    wrong = open_bundle(write_tiny_bundle(tmp_path / "wrong", files))
    assert self_test(wrong).attributions["vg"][1] > 0.4
    assert self_test(wrong, explained=EXPLAINED).attributions["vg"][1] < 1e-6
    assert self_test(wrong, explained=EXPLAINED).images == 4


def test_a_model_that_asks_for_25_gigabytes(tmp_path: Path, network: TinyNetwork) -> None:
    model = hungry_model(6_400_000_000)
    assert model.ByteSize() < 1000
    folder = bundle_of(tmp_path / "hungry", network, model)
    with pytest.raises(InstallError, match=r"the self-test failed \(.*not activated"):
        install_bundle(folder, Places(tmp_path / "places"))
    assert Places(tmp_path / "places").listed() == []


def test_a_model_of_nested_functions(tmp_path: Path, network: TinyNetwork) -> None:
    model = nested_model(26)
    assert model.ByteSize() < 4000
    begin = time.process_time()
    with pytest.raises(InstallError, match="local functions, which a bundle must not"):
        bounded_self_test(bundle_of(tmp_path / "nested", network, model), Limits(), "cpu", "fp32")
    assert time.process_time() - begin < 5


def test_too_much_processor_time(tmp_path: Path, network: TinyNetwork) -> None:
    """Fifty million additions per image and second: a loop that a model may well contain."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    model = hungry_model(1)
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [1 << 40]))
    model.graph.initializer.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(3, helper.make_node("Loop", ["turns", "go", "flat"], ["turned"], body=body))
    model.graph.node[4].input[0] = "turned"
    with pytest.raises(InstallError, match="it took more processor time than it may"):
        bounded_self_test(
            bundle_of(tmp_path / "endless", network, model), Limits(cpu_seconds=3, seconds=200), "cpu", "fp32", 1
        )


def test_too_much_time(tmp_path: Path, network: TinyNetwork) -> None:
    with pytest.raises(InstallError, match=r"did not end within 0\.01 s"):
        bounded_self_test(golden_bundle(tmp_path / "bundle", network), Limits(seconds=0.01), "cpu", "fp32")


@pytest.mark.parametrize("limits", [Limits(memory_bytes=1), Limits(cpu_seconds=0), Limits(seconds=0)])
def test_limits_within_which_nothing_runs(tmp_path: Path, limits: Limits) -> None:
    with pytest.raises(InputError, match="are too low; raise them"):
        bounded_self_test(tmp_path, limits, "cpu", "fp32")


def test_golden_inputs_are_real(tmp_path: Path, network: TinyNetwork) -> None:
    with np.load(golden_bundle(tmp_path / "bundle", network) / "golden.npz") as golden:
        assert golden["images"].shape == (4, 3, SIZE, SIZE)
