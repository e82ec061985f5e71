"""From predictions and explanations to records: measures, thumbnails, and flags for what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.classifier import Prediction, interpret
from edge_runtime.explainer import Explanation
from edge_runtime.log.frames import frame_record
from edge_runtime.log.record import encode_record
from edge_runtime.log.thumbnails import decode
from edge_runtime.manifest import PRESETS

LABELS = ("stop", "yield", "speed limit")


def explanation(method: str, attribution: np.ndarray[Any, Any], valid: bool = True) -> Explanation:
    count = len(attribution)
    return Explanation(
        logits=np.zeros((count, 3), np.float32),
        target=np.zeros(count, np.int64),
        attribution=attribution.astype(np.float32),
        method=method,
        preset=PRESETS["paper"][method],
        seed=5,
        samples=np.ones(count, np.int64),
        completeness_gap=np.full(count, 0.25) if method == "ig" else None,
        valid=np.full(count, valid),
    )


@pytest.fixture
def prediction() -> Prediction:
    return interpret(np.array([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]], np.float32))


def test_a_frame(prediction: Prediction) -> None:
    attribution = np.zeros((2, 3, 8, 8))
    attribution[1, 0, 2, 3] = 3.0  # one-hot: Gini (d - 1) / d, norm 3
    record = frame_record(
        "camera0/7",
        prediction,
        LABELS,
        explanations=[explanation(method, attribution) for method in ("vg", "ig", "sg")],
        index=1,
        image=np.full((8, 8, 3), 200, np.uint8),
        latency_ms={"classify": 4.0},
    )
    assert (record.prediction, record.label) == (0, "stop")
    assert record.probability == pytest.approx(1 / (1 + 2 * np.exp(-5)), rel=1e-6)
    assert record.explainers["vg"].gini == pytest.approx(63 / 64)
    assert record.explainers["vg"].gradient_norm == pytest.approx(3.0)
    assert record.explainers["vg"].reduction == "sum_abs"
    assert (record.explainers["ig"].completeness_gap, record.explainers["vg"].completeness_gap) == (0.25, None)
    assert (record.explainers["sg"].seed, record.explainers["vg"].seed) == (5, None)
    assert record.saliency_method == "vg"
    assert record.saliency is not None
    assert np.unravel_index(decode(record.saliency).argmax(), (8, 8)) == (2, 3)
    assert record.image is not None
    assert np.abs(decode(record.image).astype(int) - 200).max() <= 2
    assert (record.flags, record.latency_ms) == ((), {"classify": 4.0})


def test_logits_that_are_not_finite_give_no_class(prediction: Prediction) -> None:
    bad = interpret(np.array([[0.0, np.nan, 1.0]], np.float32))
    record = frame_record("x", bad, LABELS)
    assert (record.prediction, record.label, record.probability) == (None, None, None)
    assert record.flags == ("logits: not finite",)


def test_an_attribution_that_is_not_finite_gives_no_measures(prediction: Prediction) -> None:
    bad = explanation("vg", np.full((2, 3, 8, 8), np.nan), valid=False)
    record = frame_record("x", prediction, LABELS, explanations=[bad, explanation("sg", np.ones((2, 3, 8, 8)))])
    assert "attribution vg: not finite" in record.flags
    assert record.saliency_method == "sg", "the next explanation gives the thumbnail"
    stored = encode_record(record).data
    assert b'"vg":{"gini":null,"gradient_norm":null' in stored
    assert b"NaN" not in stored
    assert b"explainers.vg.gini: nan" in stored


def test_an_all_zero_saliency_has_no_gini_and_says_so(prediction: Prediction) -> None:
    record = frame_record("x", prediction, LABELS, explanations=[explanation("vg", np.zeros((2, 3, 8, 8)))])
    assert record.flags == ("saliency vg: all zero",)
    stored = encode_record(record).data
    assert b'"gini":null,"gradient_norm":0.0' in stored
