"""Explanations equal the hand-written gradient in double precision, whatever the chunks, and flag what is no number."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, InputError
from edge_runtime.explainer import MAX_SAMPLES, Explainer
from edge_runtime.manifest import PRESETS, ExplainerPreset
from edge_runtime.path import METHODS, Noise, baseline_image, sample_path
from edge_runtime.preprocess import normalize
from edge_runtime.sessions import run_session
from export.bundle import Contents, write_bundle
from tests.edge_runtime.tiny_bundle import (
    CLASSES,
    LABELS,
    SIZE,
    SPEC,
    TinyNetwork,
    classifier_model,
    images,
    tiny_files,
    write_tiny_bundle,
)

BATCH = normalize(images(5), SPEC)


@pytest.fixture(scope="module")
def explainer(tiny: Bundle) -> Explainer:
    return Explainer(tiny, threads=1)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Explainer:
    """Gives NaN for images whose first value is negative."""
    folder = tmp_path_factory.mktemp("poisoned") / "bundle"
    return Explainer(open_bundle(write_tiny_bundle(folder, tiny_files(network, poison=True))), threads=1)


def oracle(network: TinyNetwork, preset: ExplainerPreset, target: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """The explanation of BATCH in double precision, one sample point after the other."""
    points = sample_path(preset)
    baseline = baseline_image(preset, SPEC).astype(np.float64)
    noise = Noise(seed, BATCH.shape[1:]).draw(points.sigma).astype(np.float64)
    total = np.zeros(BATCH.shape)
    for scale, weight, shift in zip(points.scale, points.weight, noise, strict=True):
        gradient = network.gradient(baseline + scale * (BATCH - baseline) + shift, target)
        total += weight * (np.abs(gradient) if preset.aggregate == "magnitude" else gradient)
    return total * (BATCH - baseline) if points.times_difference else total


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_the_oracle(explainer: Explainer, network: TinyNetwork, family: str, method: str) -> None:
    found = explainer.explain(BATCH, method, seed=4, preset=family)
    logits = network.logits(BATCH)
    np.testing.assert_array_equal(found.target, logits.argmax(axis=1))
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    expected = oracle(network, found.preset, found.target, seed=4)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-5 * np.abs(expected).max())
    assert found.attribution.dtype == np.float32
    assert (found.method, found.preset, found.seed) == (method, PRESETS[family][method], 4)
    assert found.samples.tolist() == [found.preset.samples] * 5
    assert found.valid.all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 10_000])
def test_chunks_do_not_change_the_result(explainer: Explainer, method: str, chunk: int) -> None:
    preset = ExplainerPreset(method=method, samples=9, sigma=0.3)  # type: ignore[arg-type]
    whole = explainer.explain(BATCH, method, seed=1, preset=preset)
    split = explainer.explain(BATCH, method, seed=1, preset=preset, chunk=chunk)
    size = np.abs(whole.attribution).max()
    np.testing.assert_allclose(split.attribution, whole.attribution, atol=1e-6 * size)
    np.testing.assert_allclose(split.logits, whole.logits, atol=1e-6)


def test_no_engine_run_exceeds_the_chunk(tiny: Bundle) -> None:
    explainer = Explainer(tiny, threads=1)
    sizes = []
    engine = explainer.session

    class Watched:
        def run(self, outputs: list[str], feeds: dict[str, NDArray[np.float32]]) -> object:
            sizes.append(len(feeds["image"]) * len(feeds["scale"]))
            return engine.run(outputs, feeds)

    explainer.session = Watched()  # type: ignore[assignment]
    explainer.explain(BATCH, "sg", target=0, chunk=12)
    assert max(sizes) <= 12
    assert sum(sizes) == 5 * (50 + 1)


@pytest.mark.parametrize("method", ["vg", "ig", "sg"])
def test_steps_pause_before_every_engine_run(tiny: Bundle, method: str) -> None:
    runs = 0

    def counted(*arguments: object) -> list[NDArray[np.float32]]:
        nonlocal runs
        runs += 1
        return run_session(*arguments)  # type: ignore[arg-type]

    explainer = Explainer(tiny, threads=1, run=counted)
    image = normalize(images(1), SPEC)
    whole = explainer.explain(image, method, target=1, seed=4, chunk=7)
    runs, pauses = 0, 0
    steps = explainer.explain_steps(image, method, target=1, seed=4, chunk=7)
    with pytest.raises(StopIteration) as stop:
        while True:
            next(steps)
            assert runs == pauses
            pauses += 1
    assert runs == pauses == {"vg": 1, "ig": 8, "sg": 8}[method]
    assert np.array_equal(stop.value.value.attribution, whole.attribution)


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_does_not_depend_on_its_neighbours(explainer: Explainer, method: str) -> None:
    together = explainer.explain(BATCH, method)
    alone = explainer.explain(BATCH[3:4], method)
    np.testing.assert_allclose(alone.attribution[0], together.attribution[3], atol=1e-6)


def test_the_seed_decides_the_noise(explainer: Explainer) -> None:
    first, again, other = (explainer.explain(BATCH, "sg", seed=seed).attribution for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_completeness_gap(explainer: Explainer, network: TinyNetwork) -> None:
    found = explainer.explain(BATCH, "ig")
    baseline = baseline_image(found.preset, SPEC)[None]
    span = network.logits(BATCH)[range(5), found.target] - network.logits(baseline)[0, found.target]
    expected = np.abs(found.attribution.astype(np.float64).sum(axis=(1, 2, 3)) - span)
    assert found.completeness_gap is not None
    np.testing.assert_allclose(found.completeness_gap, expected, atol=1e-5)
    assert (found.completeness_gap < 1e-3 * np.abs(span)).all()
    trapezoid = explainer.explain(BATCH, "ig", preset="authors-code").completeness_gap
    assert trapezoid is not None and (trapezoid > 10 * found.completeness_gap).all()


def test_only_signed_integrated_gradients_are_complete(explainer: Explainer) -> None:
    assert explainer.explain(BATCH, "vg").completeness_gap is None
    assert explainer.explain(BATCH, "sg").completeness_gap is None
    magnitudes = ExplainerPreset(method="ig", samples=5, aggregate="magnitude")
    assert explainer.explain(BATCH, "ig", preset=magnitudes).completeness_gap is None


def test_adaptive_samples_close_the_gap(explainer: Explainer) -> None:
    coarse = ExplainerPreset(method="ig", samples=1)
    fine = ExplainerPreset(method="ig", samples=1, tolerance=1e-3)
    before = explainer.explain(BATCH, "ig", preset=coarse)
    after = explainer.explain(BATCH, "ig", preset=fine)
    reference = explainer.explain(BATCH, "ig", preset=ExplainerPreset(method="ig", samples=200))
    assert before.completeness_gap is not None and after.completeness_gap is not None
    assert (after.completeness_gap < before.completeness_gap).all()
    assert after.samples.min() > 1 and after.samples.max() < MAX_SAMPLES
    assert len(set(after.samples.tolist())) > 1  # every image stops on its own
    error = np.abs(after.attribution - reference.attribution).max()
    assert error < 0.1 * np.abs(before.attribution - reference.attribution).max()


def test_adaptive_samples_stop_at_the_limit(explainer: Explainer) -> None:
    impossible = ExplainerPreset(method="ig", samples=300, tolerance=0.0)
    found = explainer.explain(BATCH[:1], "ig", preset=impossible)
    assert found.samples.tolist() == [600]


@pytest.mark.parametrize("target", [2, np.int32(2), [2, 2, 2, 2, 2], np.full(5, 2, np.uint8)])
def test_a_given_class(explainer: Explainer, network: TinyNetwork, target: object) -> None:
    found = explainer.explain(BATCH, "vg", target)  # type: ignore[arg-type]
    assert found.target.tolist() == [2] * 5 and found.target.dtype == np.int64
    expected = network.gradient(BATCH, found.target)
    np.testing.assert_allclose(found.attribution, expected, atol=1e-5)


def test_a_given_class_needs_no_classifier(tiny: Bundle) -> None:
    explainer = Explainer(tiny, threads=1)
    explainer.explain(BATCH, "ig", target=0)
    assert "classifier" not in vars(explainer)


def test_a_given_classifier_is_used(tiny: Bundle) -> None:
    classifier = Classifier(tiny, threads=1)
    assert Explainer(tiny, threads=1, classifier=classifier).classifier is classifier


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (CLASSES, r"target 5 is out of range; the classes are 0\.\.4"),
        (-1, "target -1 is out of range"),
        ([0, 1, 2, 3, 99], "target 99 is out of range"),
        ([0, 1], r"target is int64 \[2\]; give one whole number or 5"),
        (1.0, "target is float64"),
        ("stop", "target is <U4"),
        (True, "target is bool"),
    ],
)
def test_a_class_that_cannot_be(explainer: Explainer, target: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        explainer.explain(BATCH, "vg", target)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_flagged(poisoned: Explainer, method: str) -> None:
    finite = BATCH[:, 0, 0, 0] >= 0
    found = poisoned.explain(BATCH, method, preset=ExplainerPreset(method=method, samples=3))  # type: ignore[arg-type]
    assert finite.any() and not finite.all()
    assert not found.valid[~finite].any()
    assert (found.target[~finite] == -1).all()
    assert np.isnan(found.attribution[~found.valid]).all()
    assert np.isfinite(found.attribution[found.valid]).all()
    if method == "vg":
        np.testing.assert_array_equal(found.valid, finite)


def test_nan_on_the_path_alone_is_flagged(poisoned: Explainer) -> None:
    """The image is fine, but its path starts at black, where the network gives NaN."""
    bright = BATCH[BATCH[:, 0, 0, 0] >= 0]
    found = poisoned.explain(bright, "ig", preset=ExplainerPreset(method="ig", samples=9, tolerance=0.01))
    assert np.isfinite(found.logits).all() and (found.target >= 0).all()
    assert not found.valid.any()
    assert found.completeness_gap is not None and np.isnan(found.completeness_gap).all()
    assert found.samples.tolist() == [9] * len(bright)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_below_one(explainer: Explainer, chunk: int) -> None:
    with pytest.raises(InputError, match=f"chunk is {chunk}; give at least 1"):
        explainer.explain(BATCH, chunk=chunk)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples": 0}, "samples is 0; give a finite number of at least 1"),
        ({"sigma": -0.1}, r"sigma is -0\.1"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"tolerance": -1.0}, r"tolerance is -1\.0"),
        ({"tolerance": float("inf")}, "tolerance is inf"),
    ],
)
def test_parameters_that_cannot_be(explainer: Explainer, changes: dict[str, float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        explainer.explain(BATCH, "ig", preset=msgspec.structs.replace(PRESETS["paper"]["ig"], **changes))


def test_names_that_are_not_known(explainer: Explainer) -> None:
    with pytest.raises(InputError, match=r"unknown method 'gi'; nearest: .*ig"):
        explainer.explain(BATCH, "gi")
    with pytest.raises(InputError, match=r"unknown preset 'authors-cod'; nearest: authors-code"):
        explainer.explain(BATCH, "ig", preset="authors-cod")
    with pytest.raises(InputError, match="the preset is for method sg, not ig"):
        explainer.explain(BATCH, "ig", preset=ExplainerPreset(method="sg"))
    with pytest.raises(InputError, match="seed is -1"):
        explainer.explain(BATCH, "sg", seed=-1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (BATCH[:0], "holds no images"),
        (BATCH[:, :, :-1], r"\[5, 3, 7, 8\]"),
        (images(1), "uint8"),
        (np.full((1, 3, SIZE, SIZE), np.inf, np.float32), "NaN or infinite"),
    ],
)
def test_images_that_do_not_fit(explainer: Explainer, bad: NDArray[np.float32], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        explainer.explain(bad, target=0)


def test_the_bundles_own_preset_comes_first(tmp_path: Path, network: TinyNetwork) -> None:
    own = ExplainerPreset(method="ig", samples=7)
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(network), explainers={"ig": own})
    explainer = Explainer(open_bundle(folder), threads=1)
    assert explainer.explain(BATCH[:1], "ig").preset == own
    assert explainer.explain(BATCH[:1], "ig", preset="paper").preset == PRESETS["paper"]["ig"]
    assert explainer.explain(BATCH[:1], "sg").preset == PRESETS["paper"]["sg"]


def test_a_bundle_without_explainer(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    del files["explainer.onnx"]
    with pytest.raises(BundleError, match=r"holds no explainer\.onnx; export the bundle again with it"):
        Explainer(open_bundle(write_tiny_bundle(tmp_path / "bundle", files)))


def test_the_built_graph_equals_the_hand_written_one(tmp_path: Path, network: TinyNetwork) -> None:
    contents = Contents(name="built", input=SPEC, labels=LABELS, golden_images=BATCH)
    bundle = open_bundle(write_bundle(tmp_path / "bundle", classifier_model(network), contents))
    built = Explainer(bundle, threads=1)
    for method in METHODS:
        found = built.explain(BATCH, method, seed=2, chunk=20)
        expected = oracle(network, found.preset, found.target, seed=2)
        np.testing.assert_allclose(found.attribution, expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(found.logits, network.logits(BATCH), atol=1e-5)


def test_an_explainer_with_another_interface(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    files["explainer.onnx"] = files["classifier.onnx"]
    with pytest.raises(BundleError, match=r"explainer\.onnx maps \['image'\]"):
        Explainer(open_bundle(write_tiny_bundle(tmp_path / "bundle", files)))
