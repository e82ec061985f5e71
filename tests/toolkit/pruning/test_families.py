"""Every family of torchvision's classifiers loses channels and goes all the way; the docs' table is what was seen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks import families
from toolkit import pruning
from toolkit.pruning.families import PARTS, REPAIRS

DOCS = Path(__file__).resolve().parents[3] / "docs" / "pruning.md"
QUICK = {"SqueezeNet": 32, "ShuffleNetV2": 32, "MNASNet": 32}


@pytest.mark.parametrize("family", QUICK)
def test_small_families_are_pruned_stored_and_loaded(family: str, tmp_path: Path) -> None:
    model, removed = families.pruned_and_stored(families.FAMILIES[family][0], QUICK[family], tmp_path)
    assert removed["macs"] > 0.1 and removed["parameters"] > 0.1
    assert pruning.prunable_layers(model)[-1].weight.shape[0] == families.CLASSES


def test_a_vision_transformer_gets_narrower_and_says_so() -> None:
    """Its forward pass reshapes to a width that it keeps beside the layers; the heads stay as many."""
    model = torchvision.models.VisionTransformer(32, 16, 2, 4, 64, 128, num_classes=10)
    pruned = pruning.prune(model, "channel")
    assert pruned.hidden_dim == pruned.conv_proj.out_channels == 32
    assert all(block.self_attention.num_heads == 4 for block in pruned.encoder.layers)
    assert pruned.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_goes_as_far_as_recorded(family: str) -> None:
    """All the way, unless the record says where it ends."""
    row = families.row(family)
    assert row["works"] == {each["family"]: each["works"] for each in families.recorded()}.get(family, True), row
    if not row["works"]:
        return
    assert row["gradient_residual"] < 1e-4
    assert min(row["removed"]["macs"], row["removed"]["parameters"]) > 0.1


def test_every_torchvision_classifier_belongs_to_a_family() -> None:
    def sources(names: Iterable[str]) -> set[str]:
        return {torchvision.models.get_model_builder(name).__module__ for name in names}

    covered = sources(name for name, _ in families.FAMILIES.values())
    assert sources(torchvision.models.list_models(module=torchvision.models)) == covered
    assert {kind.__module__ for kind in (*PARTS, *REPAIRS)} <= covered


def test_the_table_of_the_docs_is_what_was_recorded() -> None:
    shown = re.search(r"<!-- families -->\n(.*)\n<!-- /families -->", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1].split("\n") == families.table(families.recorded()).split("\n")
