"""Calibration as a whole: the bundle that it writes, and what it refuses without leaving a trace."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from calibration import calibrate as library
from calibration.calibrate import REPORT, Calibrated, Data, calibrate
from calibration.drift import Drift
from calibration.images import LabelledImages
from calibration.options import CalibrationOptions, DriftOptions
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, DataError, GateError, InputError
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import Gate
from edge_runtime.preprocess import normalize
from edge_runtime.self_test import TOLERANCES, relative_error, self_test
from export.gradients import add_input_gradient
from export.session import cpu_session
from export.tensorrt_support import check, errors
from tests.calibration.conftest import LABELS, SPEC, pictures

OPEN = Gate(max_accuracy_drop=1.0, min_rank_correlation=-1.0, max_road_auc_increase=1.0)
QUICK = CalibrationOptions(samples=40, gate=OPEN, drift=DriftOptions(images=6, methods=("vg",)))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(bundle_path: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Calibrated]:
    """A bundle with INT8; read only."""
    out = tmp_path_factory.mktemp("int8") / "small"
    result = calibrate(open_bundle(bundle_path), out, data, QUICK)
    return open_bundle(out), result


def test_the_bundle_holds_both(made: tuple[Bundle, Calibrated], bundle: Bundle) -> None:
    written, result = made
    assert written.precisions == ("fp32", "int8")
    new = set(written.manifest.files) - set(bundle.manifest.files)
    assert new == {"classifier.int8.onnx", "explainer.int8.onnx", "golden.int8.npz", "drift.int8.json"}
    assert all(written.read(name) == bundle.read(name) for name in bundle.manifest.files)
    entry = written.manifest.precisions["int8"]
    assert written.manifest.tolerances == {**bundle.manifest.tolerances, "int8": TOLERANCES["int8"]}
    assert entry == result.precision
    assert (entry.method, entry.samples, entry.kept, entry.gate) == ("entropy", 40, (), OPEN)
    assert entry.data is not None and len(entry.data) == 64
    assert entry.parity.images == 24 and entry.parity.same_class == 24 and entry.parity.logits < 0.05
    assert msgspec.json.decode(written.read(REPORT.format("int8")), type=Drift) == result.drift


def test_int8_differs_from_fp32_a_little(made: tuple[Bundle, Calibrated], data: Data) -> None:
    written, result = made
    images = normalize(data.held_out.images, SPEC)
    plain = Classifier(written).predict(images)
    rounded = Classifier(written, precision="int8").predict(images)
    error = np.abs(plain - rounded).max() / np.abs(plain).max()
    assert 1e-4 < error < 0.2
    explanations = [Explainer(written, precision=name).explain(images[:6], target=0) for name in written.precisions]
    assert 1e-4 < float(np.median(relative_error(explanations[1].attribution, explanations[0].attribution))) < 0.9
    through, fp32 = result.drift.drifts
    assert (through.method, through.gradient, fp32.gradient) == ("vg", "through", "fp32")
    assert 0.5 < through.rank_correlation < 1
    if not result.drift.flipped:
        assert fp32.rank_correlation == pytest.approx(1)
        assert fp32.top_iou == 1
    assert result.drift.size["classifier.int8.onnx"] < result.drift.size["classifier.onnx"]
    assert set(result.drift.latency) == {"fp32", "int8"}


def test_explainer_is_the_gradient_of_the_quantised_network(made: tuple[Bundle, Calibrated], data: Data) -> None:
    """The same values whether the pairs stand where engines want them or where gradients do."""
    written, _ = made
    images = normalize(data.held_out.images[:6], SPEC)
    classifier = onnx.load_from_string(written.read("classifier.int8.onnx"))
    explained = Explainer(written, precision="int8").explain(images, target=1)
    assert np.abs(explained.logits - Classifier(written, precision="int8").predict(images)).max() < 0.05
    pairs = add_input_gradient(classifier)
    session = cpu_session(pairs)
    feeds = {"image": images, "target": np.ones(len(images), np.int64)}
    logits, gradient = session.run(["logits", "gradient"], feeds)
    assert np.abs(explained.logits - logits).max() < 0.05
    # the engine's form differentiates the same values, but decides after rounding
    assert float(np.median(relative_error(explained.attribution, gradient))) > 1e-3


def test_self_test_of_int8(made: tuple[Bundle, Calibrated]) -> None:
    assert self_test(made[0], precision="int8").passed
    with pytest.raises(InputError, match="unknown precision"):
        self_test(made[0], precision="int4")


@pytest.mark.parametrize("file", ["classifier.int8.onnx", "explainer.int8.onnx"])
def test_tensorrt_takes_the_files(made: tuple[Bundle, Calibrated], file: str) -> None:
    assert errors(check(onnx.load_from_string(made[0].read(file)))) == []


def test_a_refused_precision_leaves_nothing(bundle: Bundle, data: Data, tmp_path: Path) -> None:
    before = snapshot(bundle.path)
    strict = replace(QUICK, gate=Gate(max_accuracy_drop=1.0, min_rank_correlation=1.5, max_road_auc_increase=1.0))
    with pytest.raises(GateError, match=r"rank correlation of its explanations is 0\.\d+ \(at least 1.5") as raised:
        calibrate(bundle, tmp_path / "out", data, strict)
    assert raised.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
    assert snapshot(bundle.path) == before


def test_in_place(bundle_path: Path, data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(bundle_path, folder)
    with pytest.raises(BundleError, match="already exists"):
        calibrate(open_bundle(folder), folder, data, QUICK)
    calibrate(open_bundle(folder), folder, data, QUICK, force=True)
    first = open_bundle(folder)
    again = replace(QUICK, keep=(first_layer(first),))
    calibrate(first, folder, data, again, force=True)
    assert open_bundle(folder).manifest.precisions["int8"].kept == again.keep
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def first_layer(bundle: Bundle) -> str:
    return library.read_network(bundle)[0].layers[0].name


def test_an_interruption_leaves_the_bundle(
    bundle_path: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(bundle_path, folder)
    before = snapshot(folder)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "measure_drift", interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate(open_bundle(folder), folder, data, QUICK, force=True)
    assert snapshot(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def training(images: np.ndarray) -> Data:
    found = LabelledImages(images, np.arange(len(images)) % len(LABELS), "bad set")
    return Data(found, found)


BAD_DATA = {
    "size": (pictures(20, 2)[:, :16], DataError, "images of 16x32x3 uint8, the bundle takes 32x32x3"),
    "type": (pictures(20, 2) / np.float32(255), DataError, "float32"),
    "one colour": (np.full((20, 32, 32, 3), 7, np.uint8), DataError, "20 of 20 calibration images.* one colour"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_images(bundle: Bundle, data: Data, tmp_path: Path, kind: str) -> None:
    images, error, message = BAD_DATA[kind]
    with pytest.raises(error, match=message):
        calibrate(bundle, tmp_path / "out", Data(training(images).calibration, data.held_out), QUICK)
    assert list(tmp_path.iterdir()) == []


def test_fewer_samples_than_classes(bundle: Bundle, data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 samples for 5 classes"):
        calibrate(bundle, tmp_path / "out", data, replace(QUICK, samples=3))


def test_an_already_quantised_classifier(made: tuple[Bundle, Calibrated]) -> None:
    model = onnx.load_from_string(made[0].read("classifier.int8.onnx"))
    with pytest.raises(InputError, match=r"quantised already .*calibrate its floating-point original"):
        library.find_layers(model)


def test_labels_of_other_images(bundle: Bundle, data: Data, tmp_path: Path) -> None:
    wrong = LabelledImages(data.held_out.images, (data.held_out.labels + 1) % len(LABELS), "shifted")
    with pytest.raises(InputError, match="FP32 classifies none of 6 images of shifted"):
        calibrate(bundle, tmp_path / "out", Data(data.calibration, wrong), QUICK)
