"""The real thing, on machines that have it: engines built, cached, loaded and run by NVIDIA's own libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import provider_choice
from edge_runtime.backends.cache import EngineCache
from edge_runtime.backends.opening import VARIABLE, native_runtime, open_native
from edge_runtime.backends.workshop import build_bundle
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.explainer import Explainer
from edge_runtime.self_test import self_test
from export.bundle import Contents, write_bundle
from export.parity import random_images
from tests.export.gradients.classifiers import CLASSES, SIZE, classifier


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    provider_choice.forget()
    yield
    provider_choice.forget()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """VGG-16 at a quarter of its width: convolutions, pooling, and units with a kink."""
    from edge_runtime.manifest import InputSpec

    _, model = classifier("vgg16")
    size = SIZE["vgg16"]
    contents = Contents(
        name="vgg16",
        input=InputSpec(height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        labels=tuple(map(str, range(CLASSES))),
        golden_images=random_images(8, (size, size)),
    )
    return open_bundle(write_bundle(tmp_path_factory.mktemp("bundles") / "vgg16", model, contents))


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.timeout(1800)
def test_native_engines(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "native")
    assert [each.built for each in build_bundle(bundle)] == [True, True]
    assert [each.built for each in build_bundle(bundle)] == [False, False]
    result = self_test(bundle, "tensorrt")
    assert result.passed, result.verdict
    session = open_native(bundle, "classifier.onnx", bundle.read("classifier.onnx"))
    assert session.get_providers() == [f"TensorRT {native_runtime().platform.tensorrt}"]
    images = random_images(40, (SIZE["vgg16"], SIZE["vgg16"]))
    for count in (1, 2, 40):
        found, expected = (Classifier(bundle, name).predict(images[:count]) for name in ("tensorrt", "cpu"))
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())
        explained = Explainer(bundle, "tensorrt").explain(images[:count], "vg")
        assert explained.valid.all()
    assert {entry.problem for entry in EngineCache().entries(native_runtime().platform)} == {None}
    (file,) = [path for path in EngineCache().folder.glob("*.engine") if path.stat().st_size == min_size()][:1]
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    assert self_test(bundle, "tensorrt", explained=1).passed  # built anew


def min_size() -> int:
    return min(path.stat().st_size for path in EngineCache().folder.glob("*.engine"))


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("provider", ["cuda"])
def test_onnxruntimes_gpu_provider(bundle: Bundle, provider: str) -> None:
    result = self_test(bundle, provider)
    assert result.passed, result.verdict


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_auto_takes_what_is_there(bundle: Bundle) -> None:
    choice = provider_choice.choose(bundle, provider_choice.AUTO)
    assert choice.provider in ("tensorrt", "cuda"), choice.passed_over
