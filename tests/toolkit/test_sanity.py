from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.manifest import PRESETS
from edge_runtime.preprocess import normalize
from tests.toolkit.squares import DATASET, VARIANT
from toolkit import recipes, sanity, training

SPEC = training.input_spec(DATASET)
IMAGES = normalize(DATASET.test.images[:8], SPEC)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    config = replace(recipes.preset("fast"), batch=32, epochs=4, augmentation="none", device="cpu")
    return training.train(DATASET, Path(tmp_path_factory.mktemp("sanity")) / "run", config, VARIANT).model


@pytest.mark.parametrize("method", ["vg", "ig"])
def test_gradients_of_a_randomised_network_are_others(model: nn.Module, method: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    preset = PRESETS["authors-code"][method]  # IG with few nodes
    stages = sanity.cascading_randomisation(model, IMAGES, preset, SPEC)
    assert [stage.layer for stage in stages][::8] == ["classifier.1", "features.0"]
    assert len(stages) == 9
    assert all(stage.correlation.shape == (8,) for stage in stages)
    means = [np.nanmean(stage.correlation) for stage in stages]
    assert means[-1] < means[0] - 0.1
    assert means[-1] < 0.6
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_seed_decides(model: nn.Module) -> None:
    first, again, other = (
        sanity.cascading_randomisation(model, IMAGES, PRESETS["paper"]["vg"], SPEC, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first[-1].correlation, again[-1].correlation)
    assert not np.array_equal(first[-1].correlation, other[-1].correlation)
