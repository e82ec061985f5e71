"""An audit's figures are those of the runtime's own parts, its two kinds of ROAD never mix, and nothing is NaN."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_runtime.audit import AuditOptions, AuditResult, audit_bundle, distribution
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, DataError, InputError
from edge_runtime.explainer import Explainer
from edge_runtime.metrics import PERCENTAGES, gini, gradient_norm, road
from edge_runtime.preprocess import normalize
from tests.edge_runtime.tiny_bundle import SPEC, TinyNetwork, images, npz, tiny_files, write_tiny_bundle

QUICK = AuditOptions(percentages=(0, 50, 90), threads=1)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def labelled(tiny: Bundle) -> AuditResult:
    return audit_bundle(tiny, options=QUICK)


@pytest.fixture(scope="module")
def unlabelled(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    folder = tmp_path_factory.mktemp("signs")
    for index, image in enumerate(images(12)):
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    return audit_bundle(tiny, folder, QUICK)


def test_accuracy_and_identity(labelled: AuditResult, tiny: Bundle) -> None:
    assert labelled.accuracy == 0.75  # the tiny audit set has three wrong labels
    assert (labelled.images, labelled.invalid, labelled.skipped) == (12, 0, ())
    assert labelled.labelled and labelled.source == "audit set of the bundle"
    assert (labelled.bundle, labelled.digest) == ("tiny", tiny.digest)


@pytest.mark.parametrize("method", ["vg", "ig", "sg"])
def test_figures_equal_the_parts(labelled: AuditResult, tiny: Bundle, method: str) -> None:
    found = labelled.explainers[method]
    explanation = Explainer(tiny, threads=1).explain(normalize(images(12), SPEC), method)
    np.testing.assert_allclose(np.array(found.gini.values, float), gini(explanation.saliency()), atol=1e-5)
    np.testing.assert_allclose(
        np.array(found.gradient_norm.values, float), gradient_norm(explanation.attribution), rtol=1e-5
    )
    assert found.gini.mean == pytest.approx(np.mean(np.array(found.gini.values, float)))
    assert (found.gini.undefined, found.invalid) == (0, 0)
    assert (found.completeness_gap is not None) == (method == "ig")
    if found.completeness_gap is not None:
        assert explanation.completeness_gap is not None
        np.testing.assert_allclose(
            np.array(found.completeness_gap.values, float), explanation.completeness_gap, atol=1e-5
        )


def test_road_with_labels_is_accuracy_of_the_right_ones(labelled: AuditResult, tiny: Bundle) -> None:
    found = labelled.explainers["vg"].road
    assert found is not None
    assert (found.measure, found.images, found.percentages) == ("accuracy", 9, (0, 50, 90))
    assert found.morf[0] == found.lerf[0] == 1.0
    assert found.combined == pytest.approx((found.lerf_auc - found.morf_auc) / 2)
    own = tiny.audit_set()
    batch = normalize(own.images, SPEC)
    classifier = Classifier(tiny, threads=1)
    right = classifier.classify(batch).target == own.labels
    saliency = Explainer(tiny, threads=1).explain(batch[right]).saliency()
    curve = road(classifier.predict, batch[right], saliency, own.labels[right], (0, 50, 90), "morf", 0)
    np.testing.assert_allclose(found.morf, curve.accuracy, atol=1e-6)
    assert found.morf_auc == pytest.approx(curve.auc)
    assert found.morf_auc_interval[0] <= found.morf_auc <= found.morf_auc_interval[1]
    assert len(found.lerf_interval) == len(found.lerf_probability) == 3
    for (low, high), point in zip(found.lerf_interval, found.lerf, strict=True):
        assert low <= point <= high


def test_road_without_labels_is_agreement(unlabelled: AuditResult) -> None:
    assert not unlabelled.labelled and unlabelled.accuracy is None
    for found in unlabelled.explainers.values():
        assert found.road is not None
        assert (found.road.measure, found.road.images) == ("agreement", 12)
        assert found.road.morf[0] == found.road.lerf[0] == 1.0


def test_road_on_all_images(tiny: Bundle) -> None:
    options = msgspec.structs.replace(QUICK, road_images="all", methods=("vg",))
    found = audit_bundle(tiny, options=options).explainers["vg"].road
    assert found is not None
    assert found.images == 12 and found.morf[0] == 0.75


def test_no_image_left_for_road(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    own = open_bundle(write_tiny_bundle(tmp_path / "right", files)).audit_set()
    wrong = npz(images=own.images[3:], labels=(own.labels[3:] + 1) % 5)
    bundle = open_bundle(write_tiny_bundle(tmp_path / "wrong", files | {"audit_set.npz": wrong}))
    found = audit_bundle(bundle, options=msgspec.structs.replace(QUICK, methods=("vg",)))
    assert found.accuracy == 0 and found.explainers["vg"].road is None


def test_latency_of_every_stage_is_per_image(labelled: AuditResult) -> None:
    counts = {stage: summary.count for stage, summary in labelled.latency.items()}
    assert counts == {"classify": 12, "vg": 12, "ig": 12, "sg": 12, "gini": 36, "road": 6}
    assert labelled.latency["ig"].p50 > labelled.latency["classify"].p50


def test_result_survives_json_without_nan(labelled: AuditResult) -> None:
    data = msgspec.json.encode(labelled)
    assert msgspec.json.decode(data, type=AuditResult) == labelled
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_what_is_no_number_is_counted_and_null(tmp_path: Path, network: TinyNetwork) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", tiny_files(network, poison=True)))
    found = audit_bundle(bundle, options=msgspec.structs.replace(QUICK, methods=("vg",)))
    dark = int((normalize(images(12), SPEC)[:, 0, 0, 0] < 0).sum())
    assert 0 < dark < 12
    vg = found.explainers["vg"]
    assert found.invalid == vg.invalid == vg.gini.undefined == vg.gradient_norm.undefined == dark
    assert vg.gini.values.count(None) == dark and vg.gini.mean is not None
    assert found.accuracy is not None and found.accuracy <= (12 - dark) / 12
    assert b"NaN" not in msgspec.json.encode(found)


def test_distribution_of_nothing() -> None:
    found = distribution(np.array([np.nan, np.inf]))
    assert (found.values, found.mean, found.undefined) == ((None, None), None, 2)


def test_default_percentages_are_the_papers() -> None:
    assert AuditOptions().percentages == tuple(PERCENTAGES) == tuple(range(1, 92, 10))


def test_limit_methods_and_presets(tiny: Bundle) -> None:
    told: list[tuple[str, int, int]] = []
    options = msgspec.structs.replace(QUICK, limit=4, methods=("sg",), road=False, presets="authors-code")
    found = audit_bundle(tiny, options=options, progress=lambda *each: told.append(each))
    assert found.images == 4 and list(found.explainers) == ["sg"]
    assert found.explainers["sg"].road is None and found.explainers["sg"].preset.aggregate == "magnitude"
    assert ("sg", 4, 4) in told and "road" not in found.latency


def test_without_explainers_only_the_classifier_is_audited(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    del files["explainer.onnx"]
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", files))
    found = audit_bundle(bundle, options=msgspec.structs.replace(QUICK, methods=()))
    assert found.accuracy == 0.75 and found.explainers == {} and set(found.latency) == {"classify"}
    with pytest.raises(BundleError, match=r"holds no explainer\.onnx"):
        audit_bundle(bundle, options=QUICK)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"methods": ("igg",)}, "unknown method 'igg'; nearest: ig"),
        ({"presets": "papr"}, "unknown preset 'papr'; nearest: paper"),
        ({"percentages": ()}, r"percentages are \[\]"),
        ({"percentages": (10, 10)}, "give ascending numbers from 0 to 100"),
        ({"percentages": (50, 101)}, "ascending numbers from 0 to 100"),
        ({"percentages": (-1, 50)}, "ascending numbers from 0 to 100"),
        ({"percentages": (float("nan"),)}, "ascending numbers from 0 to 100"),
        ({"limit": 0}, "limit is 0"),
        ({"provider": "gpu"}, "unknown provider"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_that_cannot_be(tiny: Bundle, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        audit_bundle(tiny, options=msgspec.structs.replace(QUICK, **changes))


def test_images_that_are_not_there(tiny: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        audit_bundle(tiny, tmp_path / "absent", QUICK)


def test_a_process_without_torch_and_onnx_audits(tiny: Bundle, tmp_path: Path) -> None:
    for name in ("torch", "onnx"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('desktop library loaded on the device')")
    script = (
        "import msgspec, sys; from edge_runtime import open_bundle, audit_bundle\n"
        "sys.stdout.buffer.write(msgspec.json.encode(audit_bundle(open_bundle(sys.argv[1]))))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny.path)], env=environment, capture_output=True, check=True
    )
    assert msgspec.json.decode(done.stdout, type=AuditResult).accuracy == 0.75
