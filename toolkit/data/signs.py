"""The signs that ``rendered`` shows: one table of a plate and the marks on it, drawn from shapes and Pillow's own font.

Coordinates run from -1 to 1 across the sign, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]

RED: Colour = (190, 24, 30)
BLUE: Colour = (18, 82, 160)
WHITE: Colour = (240, 240, 236)
BLACK: Colour = (22, 22, 24)
YELLOW: Colour = (240, 180, 20)
GREEN: Colour = (30, 140, 70)

MARGIN = 0.9  # the sign's share of its canvas, so that turning it cuts nothing off
SUPERSAMPLING = 4


class Pen:
    """Draws in sign coordinates on a square RGBA canvas."""

    def __init__(self, canvas: Image.Image) -> None:
        self.draw = ImageDraw.Draw(canvas)
        self.half = canvas.width / 2

    def place(self, points: Sequence[Point]) -> list[Point]:
        return [(self.half * (1 + MARGIN * x), self.half * (1 + MARGIN * y)) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon(self.place(points), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        (x, y), r = centre, radius
        self.draw.ellipse([*self.place([(x - r, y - r)])[0], *self.place([(x + r, y + r)])[0]], fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line of ``width`` with round corners."""
        self.draw.line(self.place(points), fill=colour, width=round(width * MARGIN * self.half), joint="curve")

    def text(self, text: str, centre: Point, height: float, colour: Colour) -> None:
        """Write ``text`` with letters ``height`` high around ``centre``."""
        font = ImageFont.load_default(size=height * MARGIN * self.half * 1.4)  # capitals are 0.7 of the font's size
        self.draw.text(
            self.place([centre])[0], text, fill=colour, font=font, anchor="mm", stroke_width=self.half * 0.03
        )


Drawing = Callable[[Pen], None]


def ring_points(corners: int, radius: float = 1.0, turn: float = 0.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    """Return the corners of a regular polygon, the first one at ``turn`` degrees clockwise from the top."""
    angles = [math.radians(turn + 360 * corner / corners) for corner in range(corners)]
    return [(centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)) for angle in angles]


# --- plates


def round_plate(pen: Pen, border: Colour, inside: Colour, inner: float = 0.76) -> None:
    pen.disc((0, 0), 1.0, border)
    pen.disc((0, 0), inner, inside)


def polygon_plate(pen: Pen, corners: int, turn: float, border: Colour, inside: Colour, inner: float) -> None:
    pen.polygon(ring_points(corners, 1.0, turn), border)
    pen.polygon(ring_points(corners, inner, turn), inside)


def triangle_plate(pen: Pen, turn: float) -> None:
    lowered = (0.0, 0.22 if turn == 0 else -0.22)  # centres the triangle on the canvas
    pen.polygon(ring_points(3, 1.18, turn, lowered), RED)
    pen.polygon(ring_points(3, 0.84, turn, lowered), WHITE)


def square_plate(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)], WHITE)
    pen.polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)], colour)


prohibition = partial(round_plate, border=RED, inside=WHITE)
mandatory = partial(round_plate, border=WHITE, inside=BLUE, inner=0.94)
danger = partial(triangle_plate, turn=0)


# --- marks


def word(pen: Pen, text: str, height: float, colour: Colour, y: float = 0.0) -> None:
    pen.text(text, (0, y), height, colour)


def arrow(pen: Pen, turn: float, colour: Colour = WHITE) -> None:
    """Draw a straight arrow; ``turn`` in degrees clockwise from upwards."""
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    shape = [(-0.1, 0.62), (-0.1, -0.12), (-0.4, -0.12), (0, -0.62), (0.4, -0.12), (0.1, -0.12), (0.1, 0.62)]
    pen.polygon([(x * cosine - y * sine, x * sine + y * cosine) for x, y in shape], colour)


def bent_arrow(pen: Pen, side: int, colour: Colour, scale: float, y: float) -> None:
    """Draw an arrow that comes from below and bends to ``side`` (-1 left, 1 right)."""

    def at(points: Sequence[Point]) -> list[Point]:
        return [(side * scale * px, y + scale * py) for px, py in points]

    pen.line(at([(-0.3, 0.8), (-0.3, -0.05), (0.2, -0.3)]), 0.26 * scale, colour)
    pen.polygon(at([(0.02, -0.68), (0.68, -0.5), (0.28, 0.1)]), colour)


def roundabout(pen: Pen) -> None:
    for start in (0, 120, 240):
        arc = [ring_points(1, 0.5, start + step)[0] for step in range(0, 75, 6)]
        pen.line(arc, 0.16, WHITE)
        pen.polygon(ring_points(3, 0.26, start + 180, ring_points(1, 0.5, start + 84)[0]), WHITE)


def bar(pen: Pen) -> None:
    pen.polygon([(-0.66, -0.17), (0.66, -0.17), (0.66, 0.17), (-0.66, 0.17)], WHITE)


def diagonal_stripes(pen: Pen) -> None:
    for offset in (-0.2, 0.0, 0.2):
        pen.line([(-0.5 + offset, 0.58), (0.5 + offset, -0.58)], 0.09, BLACK)


def two_cars(pen: Pen) -> None:
    for x, colour in ((-0.34, RED), (0.34, BLACK)):
        pen.polygon([(x - 0.27, 0.05), (x - 0.18, -0.28), (x + 0.18, -0.28), (x + 0.27, 0.05)], colour)
        pen.polygon([(x - 0.29, 0.0), (x + 0.29, 0.0), (x + 0.29, 0.26), (x - 0.29, 0.26)], colour)
        for wheel in (-0.19, 0.19):
            pen.disc((x + wheel, 0.28), 0.09, colour)


def crossing_roads(pen: Pen) -> None:
    pen.line([(-0.3, -0.08), (0.3, 0.52)], 0.2, BLACK)
    pen.line([(0.3, -0.08), (-0.3, 0.52)], 0.2, BLACK)


def traffic_lights(pen: Pen) -> None:
    pen.polygon([(-0.18, -0.3), (0.18, -0.3), (0.18, 0.56), (-0.18, 0.56)], BLACK)
    for y, colour in ((-0.14, RED), (0.13, YELLOW), (0.4, GREEN)):
        pen.disc((0, y), 0.13, colour)


def walker(pen: Pen, y: float, scale: float, colour: Colour) -> None:
    """Draw a walking person: head, trunk, arms, legs."""

    def at(points: Sequence[Point]) -> list[Point]:
        return [(scale * px, y + scale * py) for px, py in points]

    pen.disc(at([(0.05, -0.62)])[0], 0.15 * scale, colour)
    for limb in (
        [(0.02, -0.42), (-0.02, 0.05)],
        [(-0.36, 0.02), (0.02, -0.38), (0.36, -0.06)],
        [(-0.34, 0.66), (-0.02, 0.05), (0.3, 0.66)],
    ):
        pen.line(at(limb), 0.17 * scale, colour)


def zebra_walker(pen: Pen) -> None:
    pen.polygon([(0, -0.72), (0.74, 0.6), (-0.74, 0.6)], WHITE)
    walker(pen, 0.14, 0.6, BLACK)


# Label: what is drawn, from the back to the front.
SIGNS: dict[str, tuple[Drawing, ...]] = {
    "speed limit 30": (prohibition, partial(word, text="30", height=0.72, colour=BLACK)),
    "speed limit 50": (prohibition, partial(word, text="50", height=0.72, colour=BLACK)),
    "speed limit 100": (prohibition, partial(word, text="100", height=0.55, colour=BLACK)),
    "no overtaking": (prohibition, two_cars),
    "no vehicles": (prohibition,),
    "no entry": (partial(round_plate, border=WHITE, inside=RED, inner=0.96), bar),
    "end of all limits": (partial(round_plate, border=BLACK, inside=WHITE, inner=0.95), diagonal_stripes),
    "stop": (
        partial(polygon_plate, corners=8, turn=22.5, border=WHITE, inside=RED, inner=0.93),
        partial(word, text="STOP", height=0.42, colour=WHITE),
    ),
    "yield": (partial(triangle_plate, turn=180),),
    "priority road": (
        partial(polygon_plate, corners=4, turn=0, border=WHITE, inside=BLACK, inner=0.94),
        lambda pen: pen.polygon(ring_points(4, 0.66), YELLOW),
    ),
    "danger": (danger, partial(word, text="!", height=0.84, colour=BLACK, y=0.17)),
    "bend left": (danger, partial(bent_arrow, side=-1, colour=BLACK, scale=0.62, y=0.18)),
    "bend right": (danger, partial(bent_arrow, side=1, colour=BLACK, scale=0.62, y=0.18)),
    "crossroads": (danger, crossing_roads),
    "traffic lights": (danger, traffic_lights),
    "ahead only": (mandatory, partial(arrow, turn=0)),
    "turn left": (mandatory, partial(bent_arrow, side=-1, colour=WHITE, scale=0.85, y=0.0)),
    "turn right": (mandatory, partial(bent_arrow, side=1, colour=WHITE, scale=0.85, y=0.0)),
    "keep right": (mandatory, partial(arrow, turn=135)),
    "roundabout": (mandatory, roundabout),
    "pedestrian crossing": (partial(square_plate, colour=BLUE), zebra_walker),
    "parking": (partial(square_plate, colour=BLUE), partial(word, text="P", height=1.0, colour=WHITE)),
}


def draw_sign(label: str, size: int) -> Image.Image:
    """Draw one sign as RGBA [size, size], transparent around it."""
    canvas = Image.new("RGBA", (size * SUPERSAMPLING,) * 2)
    pen = Pen(canvas)
    for drawing in SIGNS[label]:
        drawing(pen)
    return canvas.reduce(SUPERSAMPLING)
