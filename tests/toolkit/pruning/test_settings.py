"""What pruning may be asked for, and what is refused in one line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import InputError
from edge_runtime.variant import Variant
from toolkit import pruning
from toolkit.pruning.importance import ESTIMATORS
from toolkit.pruning.masks import MASKS
from toolkit.pruning.settings import CHANNEL_OPTIONS
from toolkit.pruning.targets import REACH


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "tailor"}, "unknown importance 'tailor'; nearest: taylor"),
        ({"scope": "globally"}, "unknown scope 'globally'; nearest: global"),
        ({"target": "mac"}, "unknown target 'mac'; nearest: macs"),
        ({"round_to": 0}, r"round_to 0 is outside 1 \.\. 1024"),
        ({"steps": 0}, r"steps 0 is outside 1 \.\. 100"),
        ({"amount": 1.5}, r"pruning amount 1.5 is outside \(0, 1\)"),
        ({"method": "l1", "importance": "taylor"}, "importance 'taylor' is for method channel, not for l1"),
        ({"method": "semi-structured", "round_to": 16}, "round_to 16 is for method channel, not for semi-structured"),
        ({"method": "semi-structured", "amount": 0.3}, "zeroes 1, 2 or 3 of every 4 weights, not a share of 0.3"),
        ({"method": "semi-structured", "steps": 3}, "not a share of 0.166"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        pruning.Pruning(**{"method": "channel", **options})
    assert "\n" not in str(refused.value)


def test_the_variant_has_the_defaults_of_the_settings() -> None:
    """A default lives in the settings and in the variant, which knows no desktop code; here they meet."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Variant)}
    for field in fields(pruning.Pruning):
        if field.name in (*CHANNEL_OPTIONS, "steps"):
            assert field.default == defaults[field.name]


def test_every_name_of_the_variant_has_its_row() -> None:
    assert set(ESTIMATORS) == set(pruning.IMPORTANCES)
    assert set(REACH) == set(pruning.TARGETS)
    assert set(MASKS) == set(pruning.MASKING) == set(pruning.METHODS) - {"channel"}
    assert all(set(shares) == set(pruning.METHODS) for shares in pruning.PRESETS.values())


def test_a_part_of_the_way_is_the_same_part_for_every_kind_of_layer() -> None:
    how = pruning.Pruning("l1", 0.4, "authors-code")
    assert how.shares() == pruning.Shares(0.4, 0.2, 0.2)
    assert how.shares(0.5) == pruning.Shares(0.2, 0.1, 0.1)
