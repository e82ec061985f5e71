"""The table of layers as a picture: what quantising each does to logits and to explanations."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from calibration.sensitivity import LayerSensitivity

DOTS_PER_INCH = 130


def draw_layers(rows: Sequence[LayerSensitivity]) -> bytes:
    """Return a PNG with a pair of bars for each layer, in the order of computation."""
    figure = Figure(figsize=(9, 1.2 + 0.28 * max(4, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(rows)))
    for axes, kind, title in (
        (left, "error", "logits: relative RMS error"),
        (right, "drift", "explanations: 1 - rank"),
    ):
        alone = [getattr(row, f"alone_{kind}") for row in rows]
        others = [getattr(row, f"others_{kind}") for row in rows]
        axes.barh([place - 0.2 for place in places], alone, height=0.38, label="this layer alone")
        if all(value is not None for value in others):
            axes.barh([place + 0.2 for place in places], others, height=0.38, label="all but this layer")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    left.set_yticks(places, [row.layer for row in rows])
    left.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
