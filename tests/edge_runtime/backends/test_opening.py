"""An engine is built once and then loaded; a stale, foreign or changed one is built anew, never loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import cache, opening
from edge_runtime.backends.cache import ENGINE
from edge_runtime.backends.keys import BuildOptions
from edge_runtime.backends.opening import VARIABLE, build, native_runtime, open_native, open_tensorrt, subject_of
from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import InputError, ProviderError
from edge_runtime.self_test import self_test
from tests.edge_runtime.backends.conftest import Device
from tests.edge_runtime.backends.standin import Module

FILE = "classifier.onnx"


def opened(golden: Bundle) -> Any:
    return open_native(golden, FILE, golden.read(FILE))


def builds(device: Device) -> int:
    return device.faults.counts.get("build_serialized_network", 0)


def test_an_engine_is_built_once(device: Device, golden: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        opened(golden)
    assert builds(device) == 1
    assert caplog.messages == [f"building the TensorRT engine of {FILE}; this takes minutes, once"]
    (entry,) = device.cache.entries(native_runtime().platform)
    assert entry.problem is None


def test_the_golden_set_is_reproduced(device: Device, golden: Bundle) -> None:
    result = self_test(golden, "tensorrt")
    assert result.passed and result.logits < 1e-5
    assert max(largest for _, largest in result.attributions.values()) < 1e-4


CHANGES: dict[str, Callable[[Device], object]] = {
    "capability": lambda device: device.cudart.properties.update(major=11, minor=0),
    "gpu": lambda device: device.cudart.properties.update(name=b"Thor"),
    "multiprocessors": lambda device: device.cudart.properties.update(multiProcessorCount=8),
    "version": lambda device: device.update("11.4" if device.trt.__version__ == "10.3.0" else "10.3"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_on_another_device_it_is_built_anew(device: Device, golden: Bundle, change: str) -> None:
    opened(golden)
    CHANGES[change](device)
    device.trt.faults.counts.clear()
    opened(golden)
    opened(golden)
    assert builds(device) == 1
    problems = [entry.problem for entry in device.cache.entries(native_runtime().platform)]
    assert len(problems) == 2 and problems.count(None) == 1


def test_with_another_l4t_it_is_built_anew(device: Device, golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for release in ("36.4.3", "36.5.0", "36.4.3"):
        monkeypatch.setattr(opening, "l4t_release", lambda tree, release=release: release)
        opened(golden)
    assert builds(device) == 2


def test_a_changed_engine_is_built_anew(device: Device, golden: Bundle) -> None:
    opened(golden)
    (file,) = device.cache.folder.glob(f"*{ENGINE}")
    good = file.read_bytes()
    file.write_bytes(good.replace(b"Tanh", b"Relu"))
    expected = Classifier(golden).predict(golden.golden().images)
    found = opened(golden).run(["logits"], {"image": golden.golden().images})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert builds(device) == 2


def test_an_engine_that_tensorrt_does_not_take_is_built_anew(
    device: Device, golden: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its record and hash are right, and yet it does not load: as after a driver's update. The clock stands in 1970."""
    runtime = native_runtime()
    subject = subject_of(golden, FILE, golden.read(FILE))
    other = BuildOptions(optimization_level=5)
    device.cache.store(subject, subject.key(runtime.platform, other), b"no engine", 1.0)
    monkeypatch.setattr(cache, "datetime", type("Clock", (), {"now": lambda zone: datetime(1970, 1, 1, tzinfo=zone)}))
    opened(golden)
    assert builds(device) == 1
    assert any("does not load the engine" in message for message in caplog.messages)
    opened(golden)
    assert builds(device) == 1


def test_an_engine_that_never_loads(device: Device, golden: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    device.faults.calls.add("deserialize_cuda_engine")
    with pytest.raises(ProviderError, match=r"does not load the engine of classifier\.onnx that it has just built"):
        opened(golden)
    assert builds(device) == 1
    assert "does not load the engine ([stand-in] it does not work and more); removed" in caplog.messages[-1]
    assert device.cache.entries() == []


def test_a_version_compatible_engine_survives_an_update(
    device: Device, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = native_runtime()
    subject = subject_of(golden, FILE, golden.read(FILE))
    build(runtime, device.cache, golden, subject, golden.read(FILE), BuildOptions(version_compatible=True))
    newer = Module("10.3" if device.trt.__version__.startswith("10") else "11.4", device.cudart)
    newer.__version__ = device.trt.__version__.replace(".3.0", ".16.1").replace(".4.0.", ".5.0.")
    assert newer.__version__ != device.trt.__version__
    device.trt = newer
    session = opened(golden)
    assert builds(device) == 0
    assert session.get_providers() == [f"TensorRT {newer.__version__}"]


def test_the_options_of_a_build_decide_what_is_there(device: Device, golden: Bundle) -> None:
    runtime, model = native_runtime(), golden.read(FILE)
    subject = subject_of(golden, FILE, model)
    fast = BuildOptions(optimization_level=5)
    assert build(runtime, device.cache, golden, subject, model, fast)
    assert not build(runtime, device.cache, golden, subject, model, fast)
    assert not build(runtime, device.cache, golden, subject, model)  # any will do
    assert build(runtime, device.cache, golden, subject, model, BuildOptions())
    assert build(runtime, device.cache, golden, subject, model, fast, force=True)
    assert len(device.cache.entries(runtime.platform)) == 2
    with pytest.raises(InputError, match="optimization level is 9"):
        build(runtime, device.cache, golden, subject, model, BuildOptions(optimization_level=9))


def test_the_timing_cache_is_used_for_the_next_engine(device: Device, golden: Bundle) -> None:
    for name in (FILE, "explainer.onnx"):
        open_native(golden, name, golden.read(name))
    assert device.cache.timing(native_runtime().platform) == device.trt.__version__.encode() + b"++"


# ---- the two ways ---------------------------------------------------------------------------------------------------


def test_native_comes_first(device: Device, golden: Bundle) -> None:
    session = open_tensorrt(golden, FILE, golden.read(FILE), lambda: pytest.fail("native is there"))
    assert session.get_providers() == [f"TensorRT {device.trt.__version__}"]


def test_onnxruntime_takes_over(device: Device, golden: Bundle) -> None:
    device.cudart.faults["cudaGetDevice"] = "cudaErrorNoDevice"
    assert open_tensorrt(golden, FILE, golden.read(FILE), lambda: "onnxruntime's") == "onnxruntime's"


def failing() -> None:
    raise ProviderError("provider tensorrt does not start on this machine")


def test_both_reasons_are_told(device: Device, golden: Bundle) -> None:
    device.faults.calls.add("build_serialized_network")
    with pytest.raises(ProviderError, match=r"native: TensorRT builds no engine.*; onnxruntime: provider"):
        open_tensorrt(golden, FILE, golden.read(FILE), failing)


def test_cudas_own_failure_is_a_reason(device: Device, golden: Bundle) -> None:
    device.cudart.faults["cudaStreamCreate"] = "cudaErrorMemoryAllocation"
    assert open_tensorrt(golden, FILE, golden.read(FILE), lambda: "onnxruntime's") == "onnxruntime's"


@pytest.mark.parametrize("way", ["native", "onnxruntime"])
def test_a_way_can_be_chosen(device: Device, golden: Bundle, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, way)
    found = open_tensorrt(golden, FILE, golden.read(FILE), lambda: "onnxruntime's")
    assert (found == "onnxruntime's") == (way == "onnxruntime")


def test_a_way_that_does_not_exist(device: Device, golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nativ")
    with pytest.raises(InputError, match=r"unknown way in \$ROADWORTHY_TENSORRT 'nativ'; nearest: native"):
        open_tensorrt(golden, FILE, golden.read(FILE), failing)


def test_a_folder_that_others_may_write_is_refused(device: Device, golden: Bundle) -> None:
    opened(golden)
    device.cache.folder.chmod(0o777)
    with pytest.raises(ProviderError, match="not a folder of this user alone"):
        opened(golden)


def test_messages_reach_stderr_without_any_configuration() -> None:
    assert logging.getLogger(opening.__name__).getEffectiveLevel() <= logging.WARNING
