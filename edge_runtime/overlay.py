"""Draw an explanation: the image, the saliency laid over it, the colour scale, and what the network said.

Pillow and NumPy only, so that a vehicle can draw what it logged.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.classifier import interpret
from edge_runtime.errors import InputError
from edge_runtime.folders import new_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from edge_runtime.explainer import Explanation

METHOD_TITLES = {"vg": "Vanilla Gradient", "ig": "Integrated Gradients", "sg": "SmoothGrad"}
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# Saliency from none to most: dark violet, wine, vermilion, amber, straw; lightness grows all the way.
COLOURS = np.array([(24, 12, 48), (92, 20, 88), (176, 40, 70), (232, 98, 36), (250, 178, 40), (252, 246, 190)], float)
# The scale ends here: one pixel far above the others would otherwise leave the rest of the map dark.
CEILING_PERCENTILE = 99.0
FAINTEST, STRONGEST = 0.25, 0.9  # opacity of the colours where there is no, and most, saliency

PANEL = 320  # pixels of the longer side of the image
MARGIN = 16
BAR = 18
FONT_SIZE = 15
LINE = 22
INK, PAPER = (32, 32, 36), (255, 255, 255)


@dataclass(frozen=True)
class Scaled:
    """Saliency for drawing: ``values`` float64 [H, W] in 0..1, of which 1 stands for ``ceiling`` and above."""

    values: NDArray[np.float64]
    ceiling: float


def scale_saliency(saliency: NDArray[np.float32]) -> Scaled:
    """Map |saliency| [H, W] to 0..1; a map that is zero or holds NaN stays dark, with ceiling 0 or NaN."""
    size = np.abs(saliency.astype(np.float64))
    if not np.isfinite(size).all():
        return Scaled(np.zeros_like(size), float("nan"))
    # A map with fewer salient pixels than the percentile leaves out is scaled by its maximum.
    ceiling = float(np.percentile(size, CEILING_PERCENTILE)) or float(size.max())
    return Scaled(np.clip(size / ceiling, 0, 1) if ceiling else size, ceiling)


def colorize(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn values in 0..1 of any shape [...] into colours uint8 [..., 3]."""
    steps = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.rint(np.interp(values, steps, COLOURS[:, c])) for c in range(3)], axis=-1).astype(np.uint8)


def blend(image: NDArray[np.uint8], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay the saliency [h, w], enlarged, over the greyed image uint8 [H, W, 3]; returns uint8 [H, W, 3].

    The more salient, the more opaque; grey because the colours shall mean saliency only.
    """
    from PIL import Image

    height, width = image.shape[:2]
    map_ = Image.fromarray(scale_saliency(saliency).values.astype(np.float32))
    values = np.asarray(map_.resize((width, height), Image.Resampling.BILINEAR), np.float64).clip(0, 1)
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"), np.float64)[:, :, None], 3, axis=2)
    opacity = (FAINTEST + (STRONGEST - FAINTEST) * values)[:, :, None]
    return np.rint((1 - opacity) * grey + opacity * colorize(values)).astype(np.uint8)


def draw_explanation(
    image: NDArray[np.uint8], explanation: Explanation, labels: tuple[str, ...], index: int = 0
) -> Image:
    """Draw image ``index`` of ``explanation``; ``image`` uint8 [H, W, 3] is its original at any size.

    Left the image, right the saliency over it, then the scale; below prediction, probability, method and parameters.
    """
    from PIL import Image, ImageDraw

    saliency = explanation.saliency()[index]
    panel = enlarge(image)
    height, width = panel.shape[:2]
    lines = caption(explanation, labels, index)
    pictures = 2 * width + 4 * MARGIN + BAR + 5 * FONT_SIZE
    text = 2 * MARGIN + max(math.ceil(font().getlength(line)) for line in lines)
    figure = Image.new("RGB", (max(pictures, text), height + 3 * MARGIN + LINE * len(lines)), PAPER)
    figure.paste(Image.fromarray(panel), (MARGIN, MARGIN))
    figure.paste(Image.fromarray(blend(panel, saliency)), (2 * MARGIN + width, MARGIN))
    pen = ImageDraw.Draw(figure)
    draw_scale(figure, pen, (3 * MARGIN + 2 * width, MARGIN), height, scale_saliency(saliency).ceiling)
    for row, line in enumerate(lines):
        write(pen, (MARGIN, height + 2 * MARGIN + row * LINE), line)
    return figure


def enlarge(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the longer side of uint8 [H, W, 3] to ``PANEL`` pixels."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = PANEL / max(height, width)
    target = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC), np.uint8)


def caption(explanation: Explanation, labels: tuple[str, ...], index: int) -> list[str]:
    """Return the lines below the picture."""
    prediction = interpret(explanation.logits[index : index + 1])
    if prediction.valid[0]:
        said = f"predicted: {labels[prediction.target[0]]} ({prediction.probability[0]:.1%})"
    else:
        said = "predicted: nothing, the logits are not finite"
    preset = explanation.preset
    parameters = [METHOD_TITLES[explanation.method]]
    if explanation.method != "vg":
        parameters.append(f"{explanation.samples[index]} samples")
    if preset.sigma:
        parameters.append(f"sigma {preset.sigma:g}, seed {explanation.seed}")
    parameters.append(f"channels by {preset.reduction}")
    if explanation.completeness_gap is not None:
        parameters.append(f"completeness gap {explanation.completeness_gap[index]:.2g}")
    lines = [said, ", ".join(parameters)]
    if not explanation.valid[index]:
        lines.append("no explanation: the attribution is not finite")
    elif explanation.target[index] != prediction.target[0]:
        lines.append(f"explained: {labels[explanation.target[index]]}")
    return lines


def draw_scale(figure: Image, pen: ImageDraw, corner: tuple[int, int], height: int, ceiling: float) -> None:
    """Draw the colour bar with its ends: 0 and the value from which on the colour stays the same."""
    from PIL import Image

    left, top = corner
    ramp = np.repeat(np.linspace(1, 0, height)[:, None], BAR, axis=1)
    figure.paste(Image.fromarray(colorize(ramp)), corner)
    write(pen, (left + BAR + 6, top), f">= {ceiling:.1e}" if np.isfinite(ceiling) else "NaN")
    write(pen, (left + BAR + 6, top + height - FONT_SIZE - 4), "0")


def write(pen: ImageDraw, corner: tuple[int, int], text: str) -> None:
    pen.text(corner, text, fill=INK, font=font())


@lru_cache(maxsize=1)
def font() -> FreeTypeFont:
    """Pillow's built-in font: the same picture on every device."""
    from PIL import ImageFont

    found = ImageFont.load_default(FONT_SIZE)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise InputError("this Pillow cannot draw text (built without FreeType); install Pillow from its wheel")
    return found


def save_image(figure: Image, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write ``figure`` to ``path``, whole or not at all.

    Raises InputError for an unknown ending, an existing file without ``force``, or a folder that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target} ends in none of {', '.join(FORMATS)}; choose one of them")
    with new_file(target, force=force) as temporary:
        figure.save(temporary, FORMATS[target.suffix.lower()])
    return target
