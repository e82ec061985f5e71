"""Engines are built strongly typed, without TF32, by one code path for every version."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edge_runtime.backends.keys import BuildOptions, Profile
from edge_runtime.backends.tensorrt_build import build_engine, check_options
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, InputError, ProviderError
from tests.edge_runtime.backends.conftest import Device
from tests.edge_runtime.backends.recipes import recipe
from tests.edge_runtime.backends.test_keys import HERE

ONE, BATCH = Profile(images=(1, 1, 1)), Profile(images=(1, 3, 8))


def described(plan: bytes) -> dict[str, Any]:
    """Return what the stand-in wrote of the configuration into its engine."""
    found: dict[str, Any] = json.loads(plan.split(b"\n")[1])
    return found


def test_the_configuration(device: Device, golden: Bundle) -> None:
    found = described(build_engine(device.trt, recipe(golden, "classifier.onnx", (ONE, BATCH))).plan)
    assert found["flags"] == []  # TF32, which is on by default, was cleared; no precision was asked for
    assert (found["hardware"], found["level"], found["workspace"]) == ("NONE", 3, 1 << 30)
    assert found["profiles"] == [
        {"image": [[1, 3, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8]]},
        {"image": [[1, 3, 8, 8], [3, 3, 8, 8], [8, 3, 8, 8]]},
    ]


def test_every_option_reaches_the_builder(device: Device, golden: Bundle) -> None:
    made = recipe(
        golden,
        "classifier.onnx",
        (ONE,),
        version_compatible=True,
        hardware_compatible=True,
        optimization_level=5,
        workspace_mib=64,
    )
    found = described(build_engine(device.trt, made).plan)
    assert (found["flags"], found["hardware"]) == (["VERSION_COMPATIBLE"], "AMPERE_PLUS")
    assert (found["level"], found["workspace"]) == (5, 64 << 20)


def test_every_input_of_an_explainer_has_its_shapes(device: Device, golden: Bundle) -> None:
    profile = Profile(images=(1, 1, 1), points=(1, 17, 51))
    (found,) = described(build_engine(device.trt, recipe(golden, "explainer.onnx", (profile,))).plan)["profiles"]
    assert set(found) == {"image", "target", "baseline", "scale", "weight", "noise"}
    assert found["noise"] == [[1, 3, 8, 8], [17, 3, 8, 8], [51, 3, 8, 8]]
    assert found["target"] == [[1], [1], [1]]


def test_the_timing_cache_goes_in_and_comes_out(device: Device, golden: Bundle) -> None:
    made = recipe(golden, "classifier.onnx", (ONE,))
    version = device.trt.__version__.encode()
    first = build_engine(device.trt, made)
    assert first.timing == version + b"+"
    assert build_engine(device.trt, made, first.timing).timing == version + b"++"
    assert build_engine(device.trt, made, b"another GPU's").timing == version + b"+"


FAULTS = {
    "Builder": r"TensorRT .* does not start \(pybind11::init\(\): factory function returned nullptr\); check driver",
    "parse without error": r"does not parse classifier.onnx \(\[stand-in\] it does not work and more\); use",
    "set_shape": r"refuses the sizes of classifier.onnx \(.*image is inconsistent\)",
    "add_optimization_profile": "refuses the sizes of classifier.onnx .*an input has another shape",
    "build_serialized_network": r"builds no engine of classifier.onnx \(\[stand-in\] it does not work and more\)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_can_fail(device: Device, golden: Bundle, fault: str) -> None:
    device.faults.calls.add(fault)
    with pytest.raises(ProviderError, match=FAULTS[fault]) as caught:
        build_engine(device.trt, recipe(golden, "classifier.onnx", (ONE,)))
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_parse(device: Device, golden: Bundle) -> None:
    made = recipe(golden, "classifier.onnx", (ONE,))
    broken = type(made)(made.model.replace(b"Tanh", b"Tanx"), made.name, made.spec, made.profiles, made.options)
    with pytest.raises(ProviderError, match=r"does not parse classifier.onnx \(Failed to parse: .*Tanx"):
        build_engine(device.trt, broken)


def test_an_input_that_no_bundle_has(device: Device, golden: Bundle) -> None:
    made = recipe(golden, "classifier.onnx", (ONE,))
    other = type(made)(made.model.replace(b"image", b"pixel"), made.name, made.spec, made.profiles, made.options)
    with pytest.raises(BundleError, match="input 'pixel' is none of a bundle's"):
        build_engine(device.trt, other)


@pytest.mark.parametrize("level", [-1, 6])
def test_levels(level: int) -> None:
    with pytest.raises(InputError, match=f"optimization level is {level}; give 0 to 5"):
        check_options(BuildOptions(optimization_level=level), HERE)


def test_hardware_compatibility_has_its_limits() -> None:
    options = BuildOptions(hardware_compatible=True)
    with pytest.raises(InputError, match="no hardware compatibility on Jetson"):
        check_options(options, HERE)
    desktop = msgspec.structs.replace(HERE, l4t_release=None)
    check_options(options, desktop)
    with pytest.raises(InputError, match=r"begins with Ampere \(8.0\), this GPU has 7.5"):
        check_options(options, msgspec.structs.replace(desktop, compute_capability="7.5"))
