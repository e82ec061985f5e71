"""Cluttered backgrounds for ``rendered``: street scenes of simple shapes, drawn once and cropped many times."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

# Colours that each kind of thing varies around.
SKY = ((196, 214, 236), (150, 180, 220), (214, 216, 218), (236, 226, 206))
WALLS = ((150, 110, 90), (190, 180, 165), (120, 120, 125), (206, 190, 150), (96, 84, 80), (170, 70, 60))
LEAVES = ((52, 84, 40), (80, 110, 50), (40, 62, 36), (112, 120, 60), (120, 86, 44))
PAINT = ((190, 40, 40), (30, 90, 170), (240, 240, 235), (230, 180, 40), (40, 130, 80), (30, 30, 34))
ASPHALT = (92, 92, 96)


def draw_scene(size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one RGB scene [size, size]: sky, houses, trees, road, and painted things that compete with the sign."""
    image = Image.new("RGB", (size, size), vary(SKY[rng.integers(len(SKY))], 14, rng))
    draw = ImageDraw.Draw(image)
    horizon = size * rng.uniform(0.45, 0.8)
    for _ in range(rng.integers(2, 7)):
        draw_house(draw, size, horizon, rng)
    for _ in range(rng.integers(2, 8)):
        draw_tree(draw, size, horizon, rng)
    draw.rectangle([0, horizon, size, size], fill=vary(ASPHALT, 24, rng))
    for _ in range(rng.integers(3, 9)):
        draw_painted_thing(draw, size, rng)
    for _ in range(rng.integers(1, 5)):
        x, width = rng.uniform(0, size), max(1, round(size * rng.uniform(0.004, 0.02)))
        draw.line([x, 0, x + rng.normal(0, size * 0.05), size], fill=vary((90, 88, 86), 40, rng), width=width)
    return image.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.001, 0.008)))


def vary(colour: Colour, spread: float, rng: np.random.Generator) -> Colour:
    """Return a colour near ``colour``: brighter or darker as a whole, and a little off in each channel."""
    shifted = np.asarray(colour) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(shifted, 0, 255).astype(int).tolist()
    return red, green, blue


def draw_house(draw: ImageDraw.ImageDraw, size: int, horizon: float, rng: np.random.Generator) -> None:
    left, width, height = rng.uniform(-0.2, 0.9) * size, rng.uniform(0.15, 0.5) * size, rng.uniform(0.2, 0.7) * size
    top = horizon - height
    wall, pane = vary(WALLS[rng.integers(len(WALLS))], 18, rng), vary((60, 68, 80), 25, rng)
    draw.rectangle([left, top, left + width, horizon], fill=wall)
    columns, rows = rng.integers(2, 6), rng.integers(2, 6)
    for column in range(columns):
        for row in range(rows):
            x, y = left + width * (column + 0.3) / columns, top + height * (row + 0.3) / rows
            draw.rectangle([x, y, x + width * 0.4 / columns, y + height * 0.45 / rows], fill=pane)


def draw_tree(draw: ImageDraw.ImageDraw, size: int, horizon: float, rng: np.random.Generator) -> None:
    x, y, radius = rng.uniform(0, size), horizon - rng.uniform(0, 0.4) * size, rng.uniform(0.06, 0.2) * size
    green = LEAVES[rng.integers(len(LEAVES))]
    for dx, dy, share in np.column_stack((rng.normal(0, 0.6, (40, 2)), rng.uniform(0.1, 0.45, 40))).tolist():
        cx, cy, r = x + dx * radius, y + dy * radius, share * radius
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=vary(green, 22, rng))


def draw_painted_thing(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Draw an advertisement, a lamp or a flag: a panel, disc or triangle in a sign's colours."""
    x, y = rng.uniform(0, size, 2)
    width, height = rng.uniform(0.03, 0.22, 2) * size
    colour, mark = (vary(PAINT[rng.integers(len(PAINT))], 20, rng) for _ in range(2))
    box, inner = [x, y, x + width, y + height], [x + width / 4, y + height / 4, x + width * 0.75, y + height * 0.6]
    shape = rng.integers(3)
    if shape == 0:
        draw.rectangle(box, fill=colour)
        draw.rectangle(inner, fill=mark)
    elif shape == 1:
        draw.ellipse([x, y, x + width, y + width], fill=colour)
        draw.ellipse([x + width / 4, y + width / 4, x + width * 0.75, y + width * 0.75], fill=mark)
    else:
        corners = np.column_stack((x + rng.uniform(-1, 1, 3) * width, y + rng.uniform(-1, 1, 3) * height))
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
