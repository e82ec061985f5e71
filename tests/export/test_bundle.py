"""The bundle writer: what it writes opens, what it refuses leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest

from edge_runtime.bundle import AuditSet, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, ExportError, ProviderError
from edge_runtime.manifest import PRESETS, DriftOptions, InputSpec, Tolerance
from edge_runtime.self_test import TOLERANCES, SelfTest, relative_error, self_test
from edge_runtime.variant import Variant
from export import bundle as writer
from export.bundle import Contents, write_bundle
from export.golden import check_slope
from export.gradients import build_explainer
from export.parity import random_images
from export.to_onnx import to_onnx
from toolkit import models

SPEC = InputSpec(height=32, width=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
LABELS = ("stop", "yield", "keep right", "60", "no entry")


@pytest.fixture(scope="module")
def classifier() -> onnx.ModelProto:
    return to_onnx(models.build("vgg_small", len(LABELS), width=0.25).eval(), input_size=(32, 32))


@pytest.fixture(scope="module")
def other() -> onnx.ModelProto:
    return to_onnx(models.build("vgg_small", len(LABELS), width=0.25, seed=1).eval(), input_size=(32, 32))


def contents(**changes: Any) -> Contents:
    plain = {"name": "test", "input": SPEC, "labels": LABELS, "golden_images": random_images(4, (32, 32))}
    return Contents(**plain | changes)


def audit_images() -> AuditSet:
    generator = np.random.default_rng(0)
    # Every class twice: whatever an untrained network says of noise, some of it is right.
    return AuditSet(generator.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), np.arange(10) % 5)


@pytest.fixture(scope="module")
def written(classifier: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    variant = Variant(dataset="rendered", architecture="vgg_small", width=0.25)
    out = tmp_path_factory.mktemp("bundles") / "natural"
    return write_bundle(out, classifier, contents(variant=variant, audit_set=audit_images(), dataset_digest="d" * 64))


def test_files_and_manifest(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "audit_set.npz",
        "classifier.onnx",
        "explainer.onnx",
        "golden.npz",
        "manifest.json",
    ]
    manifest = json.loads((written / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (written / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["variant"]["architecture"] == "vgg_small"
    assert manifest["dataset_digest"] == "d" * 64
    assert manifest["macs"] > manifest["parameters"] > 0
    assert manifest["producer"].startswith("roadworthy ")


def test_opens_with_the_device_runtime(written: Path) -> None:
    bundle = open_bundle(written)
    assert bundle.labels == LABELS
    assert bundle.manifest.explainers == PRESETS["paper"]
    golden = bundle.golden()
    assert np.array_equal(Classifier(bundle).predict(golden.images), golden.logits)
    assert {method: values.shape for method, values in golden.attribution.items()} == dict.fromkeys(
        ("ig", "sg", "vg"), (4, 3, 32, 32)
    )
    assert len(bundle.audit_set().images) == 10


def test_the_self_tests_bounds_are_written_and_are_the_exporters_to_choose(
    written: Path, classifier: onnx.ModelProto, tmp_path: Path
) -> None:
    assert open_bundle(written).manifest.tolerances == {"fp32": TOLERANCES["fp32"]}
    tight = {**TOLERANCES["fp32"], "cpu": Tolerance(logits=1e-12, attribution=0.02)}
    out = write_bundle(tmp_path / "tight", classifier, contents(tolerances=tight, baselines=False))
    assert open_bundle(out).manifest.tolerances["fp32"]["cpu"].logits == 1e-12
    result = self_test(open_bundle(out), threads=1, explained=1)
    assert result.tolerance == tight["cpu"]
    assert result.passed == (result.logits <= 1e-12)
    assert "(bound 1e-12)" in result.verdict


def test_baselines_of_every_measure_that_the_vehicle_watches(written: Path) -> None:
    baselines = open_bundle(written).manifest.baselines
    assert len(baselines.confidence) == 10
    assert all(0 < value <= 1 for value in baselines.confidence)
    assert {method: len(values) for method, values in baselines.gini.items()} == {"vg": 10, "ig": 10, "sg": 10}
    assert baselines.road
    for road in baselines.road.values():
        # The curves' images are those that were classified correctly; their mean area is that between the curves.
        assert len(road.areas) == round(10 * (baselines.accuracy or 0))
        widths = np.diff(road.percentages) / (road.percentages[-1] - road.percentages[0])
        both = [float((np.add(curve[1:], curve[:-1]) / 2 * widths).sum()) for curve in (road.lerf, road.morf)]
        assert np.mean(road.areas) == pytest.approx((both[0] - both[1]) / 2)


def test_the_drift_test_is_the_exporters_to_choose(classifier: onnx.ModelProto, tmp_path: Path) -> None:
    chosen = DriftOptions(window=500, threshold=1e-7, thin=30)
    out = write_bundle(tmp_path / "bundle", classifier, contents(drift=chosen))
    assert open_bundle(out).manifest.drift == chosen


def test_self_test_reproduces_the_golden_set(written: Path) -> None:
    result = self_test(open_bundle(written), threads=1)
    assert result.passed
    assert (result.images, result.same_class) == (4, 4)
    assert result.logits < 1e-5
    assert set(result.attributions) == {"vg", "ig", "sg"}


@pytest.mark.parametrize(
    "change",
    [{"same_class": 3}, {"logits": 0.1}, {"logits": float("nan")}, {"attributions": {"vg": (0.5, 0.9)}}],
)
def test_self_test_judges(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "bundle": "b",
        "provider": "cpu",
        "images": 4,
        "same_class": 4,
        "logits": 0.0,
        "attributions": {"vg": (0.001, 0.5)},
        "tolerance": TOLERANCES["fp32"]["cpu"],
    }
    assert SelfTest(**good).passed
    assert not SelfTest(**good | change).passed


def test_relative_error_of_zero_maps() -> None:
    zero, one = np.zeros((1, 3, 2, 2), np.float32), np.ones((1, 3, 2, 2), np.float32)
    assert relative_error(zero, zero) == [0]
    assert relative_error(one * 2, one) == [1]
    assert relative_error(one, zero) > 0


def test_same_input_gives_the_same_bundle(classifier: onnx.ModelProto, written: Path, tmp_path: Path) -> None:
    variant = Variant(dataset="rendered", architecture="vgg_small", width=0.25)
    again = write_bundle(
        tmp_path / "again", classifier, contents(variant=variant, audit_set=audit_images(), dataset_digest="d" * 64)
    )
    assert open_bundle(again).digest == open_bundle(written).digest


def test_existing_output_is_refused_and_kept(classifier: onnx.ModelProto, tmp_path: Path) -> None:
    out = tmp_path / "natural"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(BundleError, match="already exists"):
        write_bundle(out, classifier, contents())
    with pytest.raises(BundleError, match=r"holds no manifest.json"):
        write_bundle(out, classifier, contents(), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["natural"]
    assert (out / "mine.txt").read_text() == "mine"


def test_force_replaces_a_bundle(classifier: onnx.ModelProto, other: onnx.ModelProto, tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "natural", classifier, contents())
    first = open_bundle(out).digest
    write_bundle(out, other, contents(), force=True)
    assert open_bundle(out).digest != first
    assert [path.name for path in tmp_path.iterdir()] == ["natural"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:-1]}, "5 logits for 4 labels"),
        ({"input": InputSpec(height=48, width=32, mean=SPEC.mean, std=SPEC.std)}, r"images \[3, 32, 32\]"),
    ],
)
def test_what_does_not_fit_is_refused(
    classifier: onnx.ModelProto, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        write_bundle(tmp_path / "out", classifier, contents(**changes))
    assert not list(tmp_path.iterdir())


def test_explainer_of_another_model_leaves_no_bundle(
    classifier: onnx.ModelProto, other: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "build_explainer", lambda model: build_explainer(other))
    with pytest.raises(ExportError, match="logits differ from the classifier's"):
        write_bundle(tmp_path / "out", classifier, contents())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5, 2.0])
def test_slope_check_finds_a_wrong_gradient(written: Path, factor: float) -> None:
    bundle = open_bundle(written)
    golden = bundle.golden()
    classifier = Classifier(bundle)
    check_slope(classifier, golden.images, golden.target, golden.attribution["vg"])
    with pytest.raises(ExportError, match="not the classifier's"):
        check_slope(classifier, golden.images, golden.target, golden.attribution["vg"] * np.float32(factor))


def test_model_with_nan_weights_leaves_no_bundle(classifier: onnx.ModelProto, tmp_path: Path) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(classifier)
    weight = next(tensor for tensor in broken.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), np.nan, dtype=np.float32), weight.name))
    with pytest.raises(ExportError, match="NaN"):
        write_bundle(tmp_path / "out", broken, contents())
    assert not list(tmp_path.iterdir())


def test_provider_that_is_not_there(written: Path) -> None:
    with pytest.raises(ProviderError, match="tensorrt"):
        self_test(open_bundle(written), "tensorrt")


class Flat:
    """A classifier whose logits hardly move: float32 cannot tell its slope."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        slope = 1e-9 * images.sum(axis=(1, 2, 3), dtype=np.float64)
        return np.stack([0.06 + slope, -slope], axis=1).astype(np.float32)


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1e4, False)])
def test_slope_check_of_a_flat_network_knows_what_rounding_hides(factor: float, fits: bool) -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)
    gradient = np.full_like(images, 1e-9 * factor)
    with contextlib.nullcontext() if fits else pytest.raises(ExportError, match="gradient is not the classifier's"):
        check_slope(cast(Classifier, Flat()), images, np.zeros(4, np.int64), gradient)
