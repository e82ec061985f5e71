"""What the witness makes of samples: records, series, pictures, and troubles that come and go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.classifier import Prediction
from edge_runtime.device import DeviceReadings
from edge_runtime.explainer import Explainer
from edge_runtime.loop.audits import Held, Sample
from edge_runtime.loop.keeper import LogKeeper
from edge_runtime.loop.witness import Streak, Witness
from edge_runtime.preprocess import normalize
from tests.edge_runtime.loop.loop_tools import frames, open_audit_log
from tests.edge_runtime.tiny_bundle import SPEC, images


def sample(number: int, *, valid: bool = True) -> Sample:
    logits = np.zeros((1, 5), np.float32) if valid else np.full((1, 5), np.nan, np.float32)
    prediction = Prediction(logits, np.array([2 if valid else -1]), np.array([0.5], np.float32), np.array([valid]))
    picture = images(1, seed=number)
    return Sample(f"frame-{number}", number, picture[0], normalize(picture, SPEC), prediction, {"classify": 1.0})


def test_a_streak_is_two_events_however_long() -> None:
    told: list[tuple[str, str]] = []
    streak = Streak("trouble")
    for bad in (False, True, True, True, False, False, True, False):
        if bad:
            streak.bad(lambda *event: told.append(event), "it is bad")
        else:
            streak.good(lambda *event: told.append(event))
    assert told == [
        ("trouble", "it is bad"),
        ("trouble-over", "after 3 frames"),
        ("trouble", "it is bad"),
        ("trouble-over", "after 1 frames"),
    ]


@pytest.mark.parametrize("thumbnails", [True, False])
def test_thumbnails_are_the_ladders_to_allow(tiny: Bundle, tmp_path: Path, thumbnails: bool) -> None:
    explainer = Explainer(tiny, threads=1)
    with LogKeeper(open_audit_log(tmp_path / "log", tiny), patient=False, stopping=lambda: False) as keeper:
        witness = Witness(tiny, keeper, 10, lambda kind: thumbnails)
        shown = sample(0)
        explanation = explainer.explain(shown.tensor, "vg", 2)
        witness.explained(shown, explanation, 12.5)
        witness.complete(Held(shown, [explanation]))
        witness.complete(Held(sample(1)))
    explained, plain = frames(tmp_path / "log")
    assert (explained.image is not None, explained.saliency is not None) == (thumbnails, thumbnails)
    assert explained.explainers["vg"].gini is not None
    assert explained.latency_ms == {"classify": 1.0, "vg": 12.5}
    assert plain.image is None and not plain.explainers
    assert witness.board.pictures.method == "vg"


def test_device_readings_go_with_the_first_record_after_them(tiny: Bundle, tmp_path: Path) -> None:
    with LogKeeper(open_audit_log(tmp_path / "log", tiny), patient=False, stopping=lambda: False) as keeper:
        witness = Witness(tiny, keeper, 10, lambda kind: True)
        for number in range(6):
            if number in (2, 4):
                witness.device = DeviceReadings(hottest_celsius=50.0 + number)
            witness.complete(Held(sample(number)))
    heat = [frame.device and frame.device.hottest_celsius for frame in frames(tmp_path / "log")]
    assert heat == [None, None, 52.0, None, 54.0, None]


def test_confidence_is_watched_on_every_so_many_th_image(tiny: Bundle) -> None:
    witness = Witness(tiny, LogKeeper(None, patient=False, stopping=lambda: False), 4, lambda kind: True)
    values = []
    witness.board.measured = lambda measure, value, baseline=(): values.append((measure, value))  # type: ignore[method-assign]
    for number in range(9):
        witness.watch(sample(number, valid=number != 4))
    assert values == [("confidence", 0.5)] * 2
    assert witness.keeper.events == {"logits-not-finite": 1, "logits-not-finite-over": 1}
