"""The variant's names tell variants apart, and what was written before its newer fields still reads."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from edge_runtime import variant
from edge_runtime.variant import Variant

PLAIN = Variant(dataset="lisa", architecture="vgg16", pruning="channel", amount=0.5, timing="post", fine_tune_epochs=2)
OLD = (
    '{"dataset": "lisa", "architecture": "vgg16", "width": 1.0, "input_size": 32, "training": "natural", "eps": 0.0, '
    '"pruning": "channel", "amount": 0.5, "timing": "post", "fine_tune_epochs": 2, "fine_tune_eps": 0.0, "seed": 0}'
)


def test_a_variant_without_the_newer_fields_reads() -> None:
    assert msgspec.json.decode(OLD, type=Variant) == PLAIN


def test_plain_pruning_keeps_its_names() -> None:
    assert (PLAIN.slug, PLAIN.label) == ("lisa-vgg16-32-natural-channel0.5-post-ft2-s0", "channel")


CHOICES: list[dict[str, Any]] = [
    *({"importance": name} for name in get_args(variant.Importance)),
    *({"scope": name} for name in get_args(variant.Scope)),
    *({"target": name} for name in get_args(variant.Target)),
    {"round_to": 16},
    {"steps": 3},
    {"importance": "l1", "scope": "global", "target": "macs", "round_to": 1, "steps": 2},
]


def test_every_choice_shows_in_both_names() -> None:
    variants = {msgspec.structs.replace(PLAIN, **choice) for choice in CHOICES}
    assert len(variants) == len(CHOICES) - 2  # three of them are the plain one
    assert len({each.slug for each in variants}) == len({each.label for each in variants}) == len(variants)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_variant_comes_back_from_its_text(choice: dict[str, Any]) -> None:
    chosen = msgspec.structs.replace(PLAIN, **choice)
    assert msgspec.json.decode(msgspec.json.encode(chosen), type=Variant) == chosen


def test_a_full_name() -> None:
    chosen = msgspec.structs.replace(PLAIN, **CHOICES[-1])
    assert chosen.slug == "lisa-vgg16-32-natural-channel0.5-by-l1-global-macs-round1-steps2-post-ft2-s0"
    assert chosen.label == "channel-by-l1-global-macs-round1-steps2"


def test_choices_of_an_unpruned_network_do_not_show() -> None:
    assert msgspec.structs.replace(PLAIN, pruning="none", steps=2).label == "natural"
