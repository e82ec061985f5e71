"""The gate's measures on graphs in memory: nothing is lost by a copy, much by another network."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.calibrate import Data
from calibration.probe import Graphs, Probe, mean_correlation
from calibration.quantise import Quantised
from edge_runtime.bundle import Bundle
from edge_runtime.explainer import Explainer
from export.gradients import build_explainer
from tests.calibration.conftest import SPEC


@pytest.fixture(scope="module")
def probe(classifier: onnx.ModelProto, data: Data) -> Probe:
    return Probe(classifier, data.held_out, SPEC, images=6)


def test_a_copy_loses_nothing(probe: Probe, classifier: onnx.ModelProto) -> None:
    measured = probe.measure(Quantised(classifier, build_explainer(classifier), ()))
    assert (measured.images, measured.accuracy_drop, measured.road_auc_increase) == (6, 0, 0)
    assert measured.rank_correlation == pytest.approx(1)
    error, correlation = probe.drift(Quantised(classifier, build_explainer(classifier), ()))
    assert (error, correlation) == (pytest.approx(0, abs=1e-6), pytest.approx(1))


def test_saliency_is_the_runtimes(probe: Probe, classifier: onnx.ModelProto, bundle: Bundle) -> None:
    target = np.array([0, 1, 2, 3, 4, 0])
    found = Graphs(classifier, build_explainer(classifier), SPEC).saliency(probe.inputs[:6], target)
    expected = Explainer(bundle).explain(probe.inputs[:6], "vg", target=target).saliency()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_another_network_loses_much(probe: Probe, classifier: onnx.ModelProto) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(classifier)
    generator = np.random.default_rng(5)
    for tensor in other.graph.initializer:
        if tensor.name.endswith("weight"):
            noise = generator.standard_normal(tuple(tensor.dims)).astype(np.float32) * 0.1
            tensor.CopyFrom(onnx.numpy_helper.from_array(noise, tensor.name))
    measured = probe.measure(Quantised(other, build_explainer(other), ()))
    assert measured.accuracy_drop > 0.2
    assert measured.rank_correlation < 0.6


def test_maps_without_rank_count_as_nothing() -> None:
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    others = maps.copy()
    others[1] = 0
    others[2, 0, 0] = np.nan
    assert mean_correlation(maps, others) == pytest.approx(1 / 3)
