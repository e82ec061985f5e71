"""Logits as the network gives them, probabilities from them, and no number where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier, interpret
from edge_runtime.errors import BundleError, InputError
from edge_runtime.preprocess import normalize
from tests.edge_runtime.tiny_bundle import (
    CLASSES,
    LABELS,
    SIZE,
    SPEC,
    TinyNetwork,
    images,
    tiny_files,
    write_tiny_bundle,
)


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    return normalize(images(7), SPEC)


def test_logits_equal_the_oracle(tiny: Bundle, network: TinyNetwork, batch: NDArray[np.float32]) -> None:
    logits = Classifier(tiny, threads=1).predict(batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, network.logits(batch), atol=1e-5)


def test_large_batches_are_split(tiny: Bundle, batch: NDArray[np.float32]) -> None:
    whole = Classifier(tiny, threads=1).predict(batch)
    split = Classifier(tiny, threads=1)
    split._batch = 2
    np.testing.assert_allclose(split.predict(batch), whole, atol=1e-6)


def test_prediction(tiny: Bundle, network: TinyNetwork, batch: NDArray[np.float32]) -> None:
    found = Classifier(tiny, threads=1).classify(batch)
    expected = network.logits(batch)
    softmax = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert found.valid.all()
    np.testing.assert_array_equal(found.target, expected.argmax(axis=1))
    np.testing.assert_allclose(found.probability, softmax.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_flagged(bad: float) -> None:
    logits = np.array([[1, 2, 0], [0, bad, 0], [1e30, -1e30, 0]], np.float32)
    found = interpret(logits)
    assert found.valid.tolist() == [True, False, True]
    assert found.target.tolist() == [1, -1, 0]
    assert np.isnan(found.probability[1])
    assert found.probability[2] == 1


def test_a_model_that_gives_nan(tmp_path: Path, network: TinyNetwork, batch: NDArray[np.float32]) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", tiny_files(network, poison=True)))
    found = Classifier(bundle, threads=1).classify(batch)
    np.testing.assert_array_equal(found.valid, batch[:, 0, 0, 0] >= 0)
    assert not found.valid.all() and found.valid.any()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((0, 3, SIZE, SIZE), np.float32), "holds no images"),
        (np.zeros((1, 3, SIZE, SIZE)), "float64"),
        (np.zeros((1, 3, SIZE, SIZE), np.uint8), "uint8"),
        (np.zeros((3, SIZE, SIZE), np.float32), r"float32 \[3, 8, 8\]; expected float32 \[N, 3, 8, 8\]"),
        (np.zeros((1, 3, SIZE, SIZE + 1), np.float32), r"\[1, 3, 8, 9\]"),
        (np.zeros((1, 1, SIZE, SIZE), np.float32), r"\[1, 1, 8, 8\]"),
        (np.full((2, 3, SIZE, SIZE), np.nan, np.float32), "image 0 of the batch holds NaN"),
        ([[0.0]], "of type list"),
    ],
)
def test_images_that_do_not_fit(tiny: Bundle, bad: NDArray[np.float32], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Classifier(tiny, threads=1).predict(bad)


def test_labels_that_do_not_match_the_model(tmp_path: Path, network: TinyNetwork, batch: NDArray[np.float32]) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(network), labels=LABELS[:-1])
    with pytest.raises(BundleError, match=r"returns \[7, 5\] logits for 4 labels"):
        Classifier(open_bundle(folder), threads=1).predict(batch)


def test_a_model_with_another_interface(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    files["classifier.onnx"] = files["explainer.onnx"]
    with pytest.raises(BundleError, match=r"classifier\.onnx maps .*'baseline'.* expected \['image'\] to \['logits'\]"):
        Classifier(open_bundle(write_tiny_bundle(tmp_path / "bundle", files)))


def test_classes_are_the_labels(tiny: Bundle, batch: NDArray[np.float32]) -> None:
    assert Classifier(tiny, threads=1).predict(batch[:1]).shape == (1, CLASSES)
