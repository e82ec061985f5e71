"""Sizes that engines are built for follow from the bundle, and never let images and points grow together."""

from __future__ import annotations

import pytest

from edge_runtime.backends.keys import Profile
from edge_runtime.backends.profiles import engine_profiles, input_shapes
from edge_runtime.errors import BundleError, InputError
from edge_runtime.manifest import PRESETS, ExplainerPreset, InputSpec, Manifest
from edge_runtime.path import even_step

SPEC = InputSpec(height=32, width=48, mean=(0, 0, 0), std=(1, 1, 1))
MANIFEST = Manifest(format_version=2, name="n", labels=("a",), input=SPEC, files={}, explainers=PRESETS["paper"])


@pytest.mark.parametrize("name", ["classifier.onnx"])
def test_a_classifier(name: str) -> None:
    assert engine_profiles(MANIFEST, name, 85, 32) == (Profile(images=(1, 1, 1)), Profile(images=(1, 85, 85)))


@pytest.mark.parametrize("chunk", [6, 50, 341])
def test_an_explainer(chunk: int) -> None:
    frame, path, batch = engine_profiles(MANIFEST, "explainer.onnx", 85, chunk)
    assert frame == Profile(images=(1, 1, 1), points=(1, 1, 1))
    assert path == Profile(images=(1, 1, 1), points=(1, even_step(51, chunk), chunk))
    assert batch == Profile(images=(1, chunk, chunk), points=(1, 1, 1))
    assert all(each.points is not None and each.images[2] * each.points[2] <= chunk for each in (frame, path, batch))


def test_a_manifest_without_presets_means_the_papers() -> None:
    bare = Manifest(format_version=1, name="n", labels=("a",), input=SPEC, files={})
    assert engine_profiles(bare, "explainer.onnx", 85, 341) == engine_profiles(MANIFEST, "explainer.onnx", 85, 341)
    few = Manifest(
        format_version=2,
        name="n",
        labels=("a",),
        input=SPEC,
        files={},
        explainers={"ig": ExplainerPreset(method="ig", samples=9)},
    )
    assert engine_profiles(few, "explainer.onnx", 85, 341)[1].points == (1, 10, 341)


def test_files_that_are_no_graphs() -> None:
    for name in ("golden.npz", "classifier.int8.onnx"):  # this manifest knows no int8
        with pytest.raises(InputError, match=f"{name} is neither classifier nor explainer"):
            engine_profiles(MANIFEST, name, 85, 32)


def test_shapes() -> None:
    profile = Profile(images=(1, 2, 4), points=(1, 8, 16))
    shapes = {name: input_shapes(name, profile, SPEC) for name in ("image", "target", "scale", "noise")}
    assert shapes["image"] == ((1, 3, 32, 48), (2, 3, 32, 48), (4, 3, 32, 48))
    assert shapes["target"] == ((1,), (2,), (4,))
    assert shapes["scale"] == ((1,), (8,), (16,))
    assert shapes["noise"] == ((1, 3, 32, 48), (8, 3, 32, 48), (16, 3, 32, 48))
    with pytest.raises(BundleError, match="input 'mask' is none of a bundle's"):
        input_shapes("mask", profile, SPEC)
