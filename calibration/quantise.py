"""A network in another precision: its classifier for engines, and an explainer of the same values for gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from calibration.layers import Network
from calibration.placement import Form, insert_pairs, step_sizes
from edge_runtime.errors import InputError
from export.gradients import build_explainer

NAME = "int8"


@dataclass(frozen=True)
class Quantised:
    """``classifier`` and ``explainer`` give the same logits; ``kept`` names the layers left in floating point."""

    classifier: onnx.ModelProto
    explainer: onnx.ModelProto
    kept: tuple[str, ...]


def silent_layers(network: Network, thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """Return the layers whose input or output is 0 for every image: there is no step that could represent it."""
    return tuple(
        layer.name for layer in network.layers if thresholds[layer.source] == 0 or thresholds[layer.settled] == 0
    )


def quantise(network: Network, thresholds: Mapping[str, float], kept: Collection[str] = ()) -> Quantised:
    """Quantise all layers of ``network`` but those ``kept``; silent layers are kept too.

    ``thresholds`` gives the largest |value| by tensor. Raises InputError where a tensor has none, and where nothing is
    left to quantise.
    """
    missing = [name for layer in network.layers for name in (layer.source, layer.settled) if name not in thresholds]
    if missing:
        raise InputError(f"there is no range for tensor {missing[0]!r}; the ranges are of another network")
    left = {*kept, *silent_layers(network, thresholds)}
    layers = tuple(layer for layer in network.layers if layer.name not in left)
    if not layers:
        raise InputError(f"all {len(network.layers)} layers stay in floating point; nothing is left to quantise")
    scales = step_sizes(network, layers, thresholds)
    return Quantised(
        classifier=insert_pairs(network, layers, scales, Form.ENGINE),
        explainer=build_explainer(insert_pairs(network, layers, scales, Form.GRADIENT)),
        kept=tuple(layer.name for layer in network.layers if layer.name in left),
    )
