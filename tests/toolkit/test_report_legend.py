"""Legends under the report's figures: names of any length fit into the width, and the axes keep their room."""

from __future__ import annotations

import pytest

from toolkit.report.figures import below, panel
from toolkit.report.page import encode


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "columns"), [("l1", 3), ("a pruned variant", 2), ("gtsrb vgg_small channel " * 3, 1)])
def test_a_legend_fits_below_its_axes(name: str, columns: int) -> None:
    figure, axes = panel()
    for index in range(6):
        axes.plot([0, 1], [0, index], label=f"{index} {name}")
    below(axes)
    encode(figure, "png")
    legend = axes.get_legend()
    assert legend is not None
    assert legend._ncols == columns
    assert axes.get_window_extent().height > 0.4 * figure.bbox.height
    if columns > 1:
        assert legend.get_window_extent().width <= figure.bbox.width
