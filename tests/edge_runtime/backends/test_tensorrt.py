"""Native engines give what onnxruntime gives, whatever the batch; and every way to fail is one line."""

from __future__ import annotations

import dataclasses
import gc
import threading
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.keys import Profile
from edge_runtime.backends.opening import native_runtime, open_native, profiles_of
from edge_runtime.backends.tensorrt import TensorrtSession, UnloadableEngineError
from edge_runtime.backends.tensorrt_build import build_engine
from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError, ProviderError
from edge_runtime.explainer import Explainer
from edge_runtime.loop.engine import Engine, EngineOptions
from edge_runtime.sessions import PROVIDERS, default_batch, default_chunk
from tests.edge_runtime.backends.conftest import Device
from tests.edge_runtime.backends.recipes import recipe
from tests.edge_runtime.tiny_bundle import SIZE


def images(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE), np.float32)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_logits_are_those_of_the_cpu(device: Device, golden: Bundle, count: int) -> None:
    expected = Classifier(golden).predict(images(count))
    np.testing.assert_allclose(Classifier(golden, "tensorrt").predict(images(count)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["vg", "ig", "sg"])
@pytest.mark.parametrize("count", [1, 3])
def test_explanations_are_those_of_the_cpu(device: Device, golden: Bundle, method: str, count: int) -> None:
    expected = Explainer(golden).explain(images(count), method, seed=3)
    found = Explainer(golden, "tensorrt").explain(images(count), method, seed=3)
    np.testing.assert_allclose(found.attribution, expected.attribution, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.target, expected.target)


def test_a_chunk_beyond_the_engine_is_split(device: Device, golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Explainer(golden).explain(images(1), "ig")
    row = dataclasses.replace(PROVIDERS["tensorrt"], chunk_bytes=7 * 4 * 3 * SIZE * SIZE)
    monkeypatch.setitem(PROVIDERS, "tensorrt", row)
    assert default_chunk("tensorrt", golden.manifest.input) == 7
    found = Explainer(golden, "tensorrt").explain(images(1), "ig", chunk=10_000)
    np.testing.assert_allclose(found.attribution, expected.attribution, rtol=1e-4, atol=1e-6)


def small(device: Device, golden: Bundle, file: str, *profiles: Profile) -> TensorrtSession:
    """An engine of ``file`` with the given profiles."""
    plan = build_engine(device.trt, recipe(golden, file, profiles)).plan
    return TensorrtSession(device.trt, device.cudart, plan, profiles, host_code=False)


def test_a_batch_that_no_profile_takes_goes_in_parts(device: Device, golden: Bundle) -> None:
    session = small(device, golden, "classifier.onnx", Profile(images=(1, 1, 1)), Profile(images=(2, 3, 4)))
    (found,) = session.run(["logits"], {"image": images(9)})
    np.testing.assert_allclose(found, Classifier(golden).predict(images(9)), rtol=1e-5, atol=1e-6)
    assert device.faults.counts["execute_async_v3"] == 3  # 4 + 4 + 1
    assert device.faults.counts["set_optimization_profile_async"] == 2  # to the second, and to the first for the rest


def test_the_first_profile_that_fits_is_taken_and_kept(device: Device, golden: Bundle) -> None:
    session = small(device, golden, "classifier.onnx", Profile(images=(1, 1, 1)), Profile(images=(1, 3, 4)))
    for count in (1, 1, 3, 4, 1):
        session.run(["logits"], {"image": images(count)})
    assert device.faults.counts["set_optimization_profile_async"] == 3


def test_points_that_no_profile_takes(device: Device, golden: Bundle) -> None:
    session = small(device, golden, "explainer.onnx", Profile(images=(1, 1, 1), points=(1, 2, 2)))
    feeds = {
        "image": images(1),
        "target": np.zeros(1, np.int64),
        "baseline": images(1),
        "scale": np.ones(3, np.float32),
        "weight": np.ones(3, np.float32),
        "noise": images(3),
    }
    with pytest.raises(EngineError, match="takes no 3 sample points at once; give a smaller chunk"):
        session.run(["logits"], feeds)


def test_it_looks_like_a_session(device: Device, golden: Bundle) -> None:
    session = open_native(golden, "explainer.onnx", golden.read("explainer.onnx"))
    assert [each.name for each in session.get_outputs()] == ["logits", "attribution", "magnitude"]
    assert {each.name for each in session.get_inputs()} == {"image", "target", "baseline", "scale", "weight", "noise"}
    assert session.get_providers() == [f"TensorRT {device.trt.__version__}"]


def test_a_series_can_be_terminated(device: Device, golden: Bundle) -> None:
    session = small(device, golden, "classifier.onnx", Profile(images=(1, 1, 1)))
    options = type("RunOptions", (), {"terminate": True})()
    with pytest.raises(EngineError, match="terminated"):
        session.run(["logits"], {"image": images(3)}, options)
    options.terminate = False
    assert session.run(["logits"], {"image": images(3)}, options)[0].shape == (3, 5)


def test_the_vehicle_loops_engine_runs_it(device: Device, golden: Bundle) -> None:
    """Supervised, in the engine's thread, with onnxruntime's options of a run."""
    engine = Engine(golden, EngineOptions(provider="tensorrt", timeout=60))
    engine.warm_up(("vg", "ig", "sg"))
    expected = Classifier(golden).predict(images(2))
    np.testing.assert_allclose(engine.classify(images(2)).logits, expected, rtol=1e-5, atol=1e-6)
    device.faults.calls.add("execute_async_v3")
    with pytest.raises(EngineError, match="inference failed: the engine does not run"):
        engine.classify(images(1))
    device.faults.calls.clear()
    engine.rebuild()
    np.testing.assert_allclose(engine.classify(images(2)).logits, expected, rtol=1e-5, atol=1e-6)
    assert device.faults.counts["build_serialized_network"] == 2  # loaded the second time, not built
    engine.close()


def test_threads_take_turns(device: Device, golden: Bundle) -> None:
    session = open_native(golden, "classifier.onnx", golden.read("classifier.onnx"))
    expected = {count: Classifier(golden).predict(images(count)) for count in (1, 2, 3)}
    wrong: list[int] = []

    def work(count: int) -> None:
        for _ in range(20):
            (found,) = session.run(["logits"], {"image": images(count)})
            if not np.allclose(found, expected[count], rtol=1e-5, atol=1e-6):
                wrong.append(count)

    threads = [threading.Thread(target=work, args=(count,)) for count in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_device_memory_is_given_back(device: Device, golden: Bundle) -> None:
    session = open_native(golden, "classifier.onnx", golden.read("classifier.onnx"))
    for count in (1, 3, 2):
        session.run(["logits"], {"image": images(count)})
    assert len(device.cudart.allocated) == 2  # one per tensor, grown once
    session.close()
    session.close()
    assert not device.cudart.allocated and not device.cudart.streams
    dropped = open_native(golden, "classifier.onnx", golden.read("classifier.onnx"))
    dropped.run(["logits"], {"image": images(1)})
    del dropped
    gc.collect()
    assert not device.cudart.allocated and not device.cudart.streams


FAULTS = {
    "execute_async_v3": (EngineError, r"the engine does not run \(\[stand-in\] it does not work and more\)"),
    "set_optimization_profile_async": (EngineError, "does not switch to profile 0"),
    "infer_shapes": (EngineError, "the engine misses noise"),
    "infer_shapes raises": (EngineError, "shapes cannot be inferred"),
    "get_tensor_shape": (EngineError, r"cannot tell the shape of logits: \[-1, 5\]"),
    "create_execution_context": (ProviderError, "does not fit into the GPU's memory"),
    "Runtime": (ProviderError, "does not start .*nullptr"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_can_fail(device: Device, golden: Bundle, fault: str) -> None:
    kind, message = FAULTS[fault]
    device.faults.calls.add(fault)
    with pytest.raises(kind, match=message) as caught:
        open_native(golden, "classifier.onnx", golden.read("classifier.onnx")).run(["logits"], {"image": images(1)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_cuda_can_fail_in_a_run(device: Device, golden: Bundle, call: str) -> None:
    session = open_native(golden, "classifier.onnx", golden.read("classifier.onnx"))
    device.cudart.faults[call] = "cudaErrorMemoryAllocation"
    with pytest.raises(EngineError, match=f"{call}: stand-in: cudaErrorMemoryAllocation"):
        session.run(["logits"], {"image": images(1)})
    device.cudart.faults.clear()
    session.close()


def test_a_shape_that_the_engine_refuses(device: Device, golden: Bundle) -> None:
    session = small(device, golden, "classifier.onnx", Profile(images=(1, 1, 1)))
    with pytest.raises(EngineError, match=r"refuses image of shape \[1, 3, 8, 9\] \(image is outside of the profile\)"):
        session.run(["logits"], {"image": np.zeros((1, 3, 8, 9), np.float32)})


def test_an_engine_with_other_profiles(device: Device, golden: Bundle) -> None:
    one = Profile(images=(1, 1, 1))
    plan = build_engine(device.trt, recipe(golden, "classifier.onnx", (one,))).plan
    with pytest.raises(UnloadableEngineError, match="has 1 profiles, not 2"):
        TensorrtSession(device.trt, device.cudart, plan, (one, one), host_code=False)


def test_an_engine_of_types_that_no_bundle_has(device: Device, golden: Bundle) -> None:
    import onnx
    from onnx import TensorProto, helper

    half = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", 3, 8, 8]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", half[:1], half[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    made = recipe(golden, "classifier.onnx", (Profile(images=(1, 1, 1)),))
    plan = build_engine(device.trt, dataclasses.replace(made, model=model.SerializeToString())).plan
    with pytest.raises(ProviderError, match=r"'image' of the engine is .*, which no bundle has"):
        TensorrtSession(device.trt, device.cudart, plan, made.profiles, host_code=False)


def test_profiles_cover_what_classifier_and_explainer_ask_for(device: Device, golden: Bundle) -> None:
    spec = golden.manifest.input
    batch, chunk = default_batch("tensorrt", spec), default_chunk("tensorrt", spec)
    classifier, explainer = (profiles_of(golden, name) for name in ("classifier.onnx", "explainer.onnx"))
    assert all(any(each.fits(count, 1) for each in classifier) for count in range(1, batch + 1))
    assert all(any(each.fits(1, points) for each in explainer) for points in range(1, chunk + 1))
    assert all(any(each.fits(count, 1) for each in explainer) for count in range(1, chunk + 1))
    assert native_runtime().platform.tensorrt == device.trt.__version__
