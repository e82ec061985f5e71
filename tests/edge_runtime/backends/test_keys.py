"""An engine runs where everything matches, and where it was built compatible in just that."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.backends.keys import BuildOptions, EngineKey, Platform, Profile, mismatch, same_major_or_newer

HERE = Platform(
    tensorrt="10.3.0",
    compute_capability="8.7",
    gpu="Orin",
    multiprocessors=16,
    machine="aarch64",
    l4t_release="36.4.3",
)
KEY = EngineKey(model="a" * 64, profiles=(Profile(images=(1, 1, 4)),), platform=HERE)


def test_the_same_platform() -> None:
    assert mismatch(KEY, HERE) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tensorrt": "10.3.1"}, "built by TensorRT 10.3.0, here is 10.3.1"),
        ({"compute_capability": "11.0"}, "built for compute capability 8.7, here is 11.0"),
        ({"gpu": "Xavier"}, r"built on Orin (16 multiprocessors), here is Xavier (16)"),
        ({"multiprocessors": 8}, r"built on Orin (16 multiprocessors), here is Orin (8)"),
        ({"machine": "x86_64"}, "built on aarch64, here is x86_64"),
        ({"l4t_release": "36.5.0"}, "built on L4T 36.4.3, here is 36.5.0"),
        ({"l4t_release": None}, "built on L4T 36.4.3, here is none"),
    ],
)
def test_another_platform(change: dict[str, object], reason: str) -> None:
    assert mismatch(KEY, msgspec.structs.replace(HERE, **change)) == reason


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.3.0", True), ("10.3.1", True), ("10.16.1", True), ("10.2.9", False), ("11.4.0", False), ("10.x", False)],
)
def test_version_compatible(version: str, fits: bool) -> None:
    key = msgspec.structs.replace(KEY, options=BuildOptions(version_compatible=True))
    there = msgspec.structs.replace(HERE, tensorrt=version)
    assert (mismatch(key, there) is None) == fits
    assert mismatch(key, msgspec.structs.replace(there, multiprocessors=8)) is not None


@pytest.mark.parametrize(("capability", "fits"), [("8.7", True), ("8.9", True), ("12.0", True), ("7.5", False)])
def test_hardware_compatible(capability: str, fits: bool) -> None:
    key = msgspec.structs.replace(KEY, options=BuildOptions(hardware_compatible=True))
    there = msgspec.structs.replace(HERE, compute_capability=capability, gpu="Other", multiprocessors=99)
    assert (mismatch(key, there) is None) == fits
    assert mismatch(key, msgspec.structs.replace(there, tensorrt="10.4.0")) is not None


def test_versions_that_are_no_numbers() -> None:
    assert same_major_or_newer("10.3.0", "10.3.0")
    assert not same_major_or_newer("10.3.0", "10.3.0-beta")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "b" * 64},
        {"profiles": (Profile(images=(1, 1, 5)),)},
        {"profiles": (Profile(images=(1, 1, 4), points=(1, 1, 1)),)},
        {"platform": msgspec.structs.replace(HERE, tensorrt="10.3.1")},
        {"platform": msgspec.structs.replace(HERE, l4t_release=None)},
        {"options": BuildOptions(optimization_level=5)},
        {"options": BuildOptions(version_compatible=True)},
    ],
)
def test_every_field_is_part_of_the_name(change: dict[str, object]) -> None:
    other = msgspec.structs.replace(KEY, **change)
    assert other.digest != KEY.digest
    assert msgspec.json.decode(msgspec.json.encode(other), type=EngineKey).digest == other.digest


@pytest.mark.parametrize(
    ("images", "points", "fits"), [(1, 1, True), (4, 2, True), (5, 1, False), (0, 1, False), (1, 3, False)]
)
def test_what_fits_a_profile(images: int, points: int, fits: bool) -> None:
    assert Profile(images=(1, 2, 4), points=(1, 1, 2)).fits(images, points) == fits


def test_a_platform_in_words() -> None:
    assert str(HERE) == "TensorRT 10.3.0 on Orin (compute capability 8.7, L4T 36.4.3)"
