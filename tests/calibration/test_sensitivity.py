"""The layer to blame is found, and as few layers as the gate takes are left in floating point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration import sensitivity as library
from calibration.calibrate import Data
from calibration.images import stream
from calibration.layers import Network, find_layers
from calibration.placement import tensors_to_watch
from calibration.probe import Probe
from calibration.quantise import Quantised, quantise, silent_layers
from calibration.ranges import observe
from calibration.sensitivity import (
    Candidate,
    LayerSensitivity,
    Search,
    keep_fewest,
    keep_worst,
    sensitivities,
    worst_first,
)
from calibration.thresholds import threshold
from edge_runtime.errors import InputError
from edge_runtime.manifest import Gate, GateMeasures
from tests.calibration.conftest import SPEC

OPEN = Gate(max_accuracy_drop=1.0, min_rank_correlation=-1.0, max_road_auc_increase=1.0)


def thresholds(network: Network, data: Data) -> dict[str, float]:
    found = observe(network, tensors_to_watch(network.layers), stream(data.calibration, SPEC))
    return {name: threshold(histogram, "minmax") for name, histogram in found.items()}


@pytest.fixture(scope="module")
def search(classifier: onnx.ModelProto, data: Data) -> Search:
    """A network whose first layer is clipped beyond recognition."""
    network = find_layers(classifier)
    found = thresholds(network, data)
    found["image"] /= 30
    return Search(network, found, Probe(classifier, data.held_out, SPEC, images=8), OPEN)


def test_the_clipped_layer_is_to_blame(search: Search) -> None:
    rows = sensitivities(search)
    assert [row.layer for row in rows] == [layer.name for layer in search.network.layers]
    spoilt = search.network.layers[0].name
    assert worst_first(rows)[0] == spoilt
    assert min(rows, key=lambda row: row.others_error or 0).layer == spoilt
    assert all(0 <= row.alone_drift < 2 and row.weights > 0 for row in rows)
    kept = keep_worst(search, 1, rows)
    assert kept.quantised.kept == (spoilt,)
    assert kept.measured.rank_correlation > search.candidate(()).measured.rank_correlation
    with pytest.raises(InputError, match="--keep-fp 9 of 9 layers leaves nothing"):
        keep_worst(search, 9, rows)


def row(name: str, drift: float) -> LayerSensitivity:
    return LayerSensitivity(
        layer=name, operator="Conv", weights=1, alone_error=0.0, alone_drift=drift, others_error=None, others_drift=None
    )


NEEDED = {
    "none": set(),
    "the worst": {"a"},
    "not the worst": {"c"},
    "two": {"a", "d"},
    "all but one": {"a", "b", "c", "d"},
}


@pytest.mark.parametrize("kind", NEEDED)
def test_fewest_layers(search: Search, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A gate that wants certain layers kept gets these and no others."""
    tried = []

    def candidate(self: Search, kept: tuple[str, ...]) -> Candidate:
        tried.append(tuple(kept))
        refused = [] if NEEDED[kind] <= set(kept) else ["refused"]
        measured = GateMeasures(images=1, accuracy_drop=0, rank_correlation=0, road_auc_increase=0)
        return Candidate(Quantised(onnx.ModelProto(), onnx.ModelProto(), tuple(kept)), measured, refused)

    monkeypatch.setattr(library.Search, "candidate", candidate)
    rows = [row(name, 1 - index / 10) for index, name in enumerate("abcde")]
    best = keep_fewest(search, rows)
    assert not best.refused
    assert set(best.quantised.kept) == NEEDED[kind]
    assert len(tried) <= 8


def test_where_nothing_passes(search: Search) -> None:
    hopeless = replace(search, gate=Gate(min_rank_correlation=1.5))
    names = [layer.name for layer in search.network.layers]
    best = keep_fewest(hopeless, [row(name, index) for index, name in enumerate(names)])
    assert best.refused
    assert best.quantised.kept == tuple(names[1:])


def test_a_silent_layer_stays_in_floating_point(classifier: onnx.ModelProto, data: Data) -> None:
    """Pruned networks have them: a bias so low that Relu leaves nothing."""
    dead = onnx.ModelProto()
    dead.CopyFrom(classifier)
    network = find_layers(classifier)
    for tensor in dead.graph.initializer:
        if tensor.name == network.layers[2].bias:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), -1e3, np.float32), tensor.name))
    network = find_layers(dead)
    found = thresholds(network, data)
    names = [layer.name for layer in network.layers]
    assert silent_layers(network, found) == tuple(names[2:4])  # the one that is silent, and the one that it feeds
    assert quantise(network, found).kept == tuple(names[2:4])


def test_ranges_of_another_network(search: Search) -> None:
    with pytest.raises(InputError, match="there is no range for tensor 'image'"):
        quantise(search.network, {})
    with pytest.raises(InputError, match="all 9 layers stay in floating point"):
        quantise(search.network, search.thresholds, [layer.name for layer in search.network.layers])
