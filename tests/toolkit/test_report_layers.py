"""The plot of layers is a picture that grows with their number."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from calibration.sensitivity import LayerSensitivity
from toolkit.report.layers import draw_layers


def rows(count: int, others: float | None) -> list[LayerSensitivity]:
    return [
        LayerSensitivity(
            layer=f"features.{index}",
            operator="Conv",
            weights=9,
            alone_error=0.01 * index,
            alone_drift=0.02 * index,
            others_error=others,
            others_drift=others,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("others", [0.1, None])
def test_draws_any_number_of_layers(others: float | None) -> None:
    heights = []
    for count in (1, 8, 60):
        with Image.open(io.BytesIO(draw_layers(rows(count, others)))) as picture:
            heights.append(picture.height)
            assert picture.width > 800
    assert heights[0] < heights[1] < heights[2]
    assert draw_layers(rows(3, others)) == draw_layers(rows(3, others))
