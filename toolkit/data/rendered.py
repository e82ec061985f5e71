"""``rendered``: traffic signs drawn at run time, so that everything works without any download.

Each image is a sign of ``signs.SIGNS`` seen in perspective on a street scene, then worn, occluded, lit, blurred and
noisy. Pillow draws and warps one image at a time; the rest is arithmetic on whole chunks of images. The same options,
seed and library versions give the same images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import InputError
from toolkit.data.dataset import Images, Labels, Source, Split
from toolkit.data.reading import Progress, Request
from toolkit.data.scenes import draw_scene
from toolkit.data.signs import SIGNS, draw_sign

Floats = NDArray[np.float32]

COUNTS = {"train": 6000, "validation": 1000, "test": 2000}  # images, unless the options say otherwise
CHUNK = 250  # images that are composed together: some 10 MB per array at 32x32
SCENES = 120  # per part at most; every background is a random crop of one
CROPS_PER_SCENE = 10  # before another scene is drawn, up to SCENES
SCENE_SCALE = 4  # side of a scene, in image sides
SIGN_SCALE = 2  # the sign is warped at this multiple of the image's side, then averaged down


def read_rendered(request: Request) -> Source:
    """Draw the three parts; options ``train``, ``validation`` and ``test`` give their numbers of images."""
    counts = {part: count_option(request.options, part) for part in COUNTS}
    total, done = sum(counts.values()), 0
    parts = {}
    for index, (part, count) in enumerate(counts.items()):
        rng = np.random.default_rng([request.seed, index])
        parts[part] = render(count, request.size, rng, shifted(request.progress, done, total))
        done += count
    return Source("rendered", tuple(SIGNS), parts["train"], parts["validation"], parts["test"])


def count_option(options: Mapping[str, str], part: str) -> int:
    text = options.get(part, str(COUNTS[part]))
    if not text.isdigit() or int(text) < len(SIGNS):
        raise InputError(f"{part}={text!r} is not a number of images, {len(SIGNS)} (one per class) or more")
    return int(text)


def shifted(progress: Progress | None, before: int, total: int) -> Progress:
    """Return a progress function for one part of a longer work."""
    return lambda done, _: progress(before + done, total) if progress is not None else None


def render(count: int, size: int, rng: np.random.Generator, progress: Progress = lambda done, total: None) -> Split:
    """Draw ``count`` images of ``size`` x ``size``, the classes as evenly as possible, in random order."""
    side = size * SIGN_SCALE
    templates = [draw_sign(label, side).convert("RGBa") for label in SIGNS]
    scenes = [draw_scene(size * SCENE_SCALE, rng) for _ in range(min(SCENES, 1 + count // CROPS_PER_SCENE))]
    labels = rng.permutation(np.arange(count) % len(SIGNS)).astype(np.int64)
    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, CHUNK):
        chunk = slice(start, min(start + CHUNK, count))
        images[chunk] = compose(labels[chunk], size, templates, scenes, rng)
        progress(chunk.stop, count)
    return Split(images, labels)


def compose(
    labels: Labels, size: int, templates: list[Image.Image], scenes: list[Image.Image], rng: np.random.Generator
) -> Images:
    """Compose one chunk: uint8 [N, size, size, 3]."""
    count = len(labels)
    poses = draw_poses(count, rng)
    picture = crop_scenes(count, size, scenes, rng)
    picture = add_poles(picture, poses, rng)
    signs = warp_signs(labels, size, templates, poses)
    colour, alpha = wear(signs[..., :3], signs[..., 3:], rng), signs[..., 3:]
    picture = picture * (1 - alpha) + colour
    picture = occlude(picture, rng)
    picture = light(picture, rng)
    picture = blur(picture, rng)
    noise = rng.standard_normal(picture.shape, np.float32) * uniform(rng, (0.005, 0.035), count)
    return (np.clip(picture + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def uniform(rng: np.random.Generator, bounds: tuple[float, float], count: int, channels: int = 1) -> Floats:
    """Draw one number per image (and channel), shaped [N, 1, 1, channels] to broadcast over pixels."""
    return rng.uniform(*bounds, (count, 1, 1, channels)).astype(np.float32)


def grid(size: int) -> tuple[Floats, Floats]:
    """Return x and y of the pixel centres, -1 .. 1, each [1, size, size, 1]."""
    axis = ((np.arange(size) * 2 + 1) / size - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x[None, ..., None], y[None, ..., None]


def draw_poses(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the homographies [N, 3, 3] from image to sign coordinates: place, size, turn, slant and perspective."""
    turn = np.radians(rng.normal(0, 8, count))
    scale = rng.uniform(0.58, 1.0, count)
    stretch = rng.uniform(0.85, 1.18, count)
    place = rng.uniform(-0.2, 0.2, (2, count))
    forward = np.zeros((count, 3, 3))
    forward[:, 0, 0], forward[:, 0, 1] = scale * stretch * np.cos(turn), -scale * np.sin(turn)
    forward[:, 1, 0], forward[:, 1, 1] = scale * np.sin(turn), scale / stretch * np.cos(turn)
    forward[:, 0, 1] += scale * rng.normal(0, 0.07, count)
    forward[:, 0, 2], forward[:, 1, 2] = place
    forward[:, 2, 0], forward[:, 2, 1] = rng.uniform(-0.2, 0.2, (2, count))
    forward[:, 2, 2] = 1
    return np.asarray(np.linalg.inv(forward))


def warp_signs(labels: Labels, size: int, templates: list[Image.Image], poses: NDArray[np.float64]) -> Floats:
    """Return the signs as seen in the images: premultiplied RGBA [N, size, size, 4] in 0 .. 1."""
    side = size * SIGN_SCALE
    to_unit = np.array([[2 / side, 0, -1], [0, 2 / side, -1], [0, 0, 1]])
    homographies = np.linalg.inv(to_unit) @ poses @ to_unit
    coefficients = (homographies / homographies[:, 2:, 2:]).reshape(-1, 9)[:, :8].tolist()
    warped = np.stack(
        [
            np.asarray(
                templates[label].transform(
                    (side, side), Image.Transform.PERSPECTIVE, coefficient, Image.Resampling.BILINEAR
                )
            )
            for label, coefficient in zip(labels.tolist(), coefficients, strict=True)
        ]
    )
    blocks = warped.reshape(len(labels), size, SIGN_SCALE, size, SIGN_SCALE, 4)
    total = sum(
        blocks[:, :, row, :, column].astype(np.float32) for row in range(SIGN_SCALE) for column in range(SIGN_SCALE)
    )
    return np.asarray(total, np.float32) / np.float32(255 * SIGN_SCALE**2)


def crop_scenes(count: int, size: int, scenes: list[Image.Image], rng: np.random.Generator) -> Floats:
    """Return random crops of the scenes, half of them mirrored: [N, size, size, 3] in 0 .. 1."""
    side = size * SCENE_SCALE
    chosen = rng.integers(len(scenes), size=count).tolist()
    width = rng.uniform(0.2, 0.9, count) * side
    left, top = rng.uniform(0, 1, (2, count)) * (side - width)
    mirrored = rng.random(count) < 0.5
    boxes = np.column_stack((np.where(mirrored, left + width, left), top, np.where(mirrored, left, left + width)))
    boxes = np.column_stack((boxes, top + width)).tolist()
    crops = [
        np.asarray(scenes[scene].transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))
        for scene, box in zip(chosen, boxes, strict=True)
    ]
    return np.stack(crops).astype(np.float32) / np.float32(255)


def add_poles(picture: Floats, poses: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Draw the grey post that most signs stand on."""
    count, size = len(picture), picture.shape[1]
    x, y = grid(size)
    centre = np.linalg.inv(poses)[:, :2, 2].astype(np.float32)
    half_width = uniform(rng, (0.03, 0.08), count)
    edge = (half_width - np.abs(x - centre[:, 0, None, None, None])) * size / 2
    post = np.clip(edge + 0.5, 0, 1) * (y > centre[:, 1, None, None, None]) * (uniform(rng, (0, 1), count) < 0.7)
    return picture + post * (uniform(rng, (0.25, 0.65), count) - picture)


def wear(colour: Floats, alpha: Floats, rng: np.random.Generator) -> Floats:
    """Fade the signs' colours towards grey and shift them a little; ``colour`` is premultiplied by ``alpha``."""
    count = len(colour)
    faded = colour + uniform(rng, (0, 0.35), count) * (uniform(rng, (0.4, 0.7), count) * alpha - colour)
    return faded * uniform(rng, (0.85, 1.1), count, 3)


def occlude(picture: Floats, rng: np.random.Generator) -> Floats:
    """Cover a part of half of the images with a slanted branch, post or sticker of any colour."""
    count, size = len(picture), picture.shape[1]
    x, y = grid(size)
    turn = uniform(rng, (0, np.pi), count)
    across = (x - uniform(rng, (-0.7, 0.7), count)) * np.cos(turn) + (y - uniform(rng, (-0.7, 0.7), count)) * np.sin(
        turn
    )
    along = (y - uniform(rng, (-0.7, 0.7), count)) * np.cos(turn) - (x - uniform(rng, (-0.7, 0.7), count)) * np.sin(
        turn
    )
    half_width, half_length = uniform(rng, (0.03, 0.13), count), uniform(rng, (0.1, 1.2), count)
    distance = np.minimum(half_width - np.abs(across), half_length - np.abs(along)) * size / 2
    cover = np.clip(distance + 0.5, 0, 1) * (uniform(rng, (0, 1), count) < 0.4)
    colour = uniform(rng, (0.05, 0.7), count) * uniform(rng, (0.7, 1.2), count, 3)
    return picture + cover * (colour - picture)


def light(picture: Floats, rng: np.random.Generator) -> Floats:
    """Change exposure, colour of the light, and its gradient; cast a shadow's edge across a third of the images."""
    count, size = len(picture), picture.shape[1]
    x, y = grid(size)
    turn = uniform(rng, (0, 2 * np.pi), count)
    across = x * np.cos(turn) + y * np.sin(turn)
    exposure = np.exp2(uniform(rng, (-1.3, 0.4), count))
    gradient = 1 + uniform(rng, (0, 0.35), count) * across
    shaded = np.clip((across - uniform(rng, (-0.6, 0.6), count)) * size / 4, 0, 1)
    shadow = 1 - shaded * uniform(rng, (0.2, 0.6), count) * (uniform(rng, (0, 1), count) < 0.33)
    haze = uniform(rng, (0, 0.15), count)
    lit = picture * (exposure * gradient * shadow) * uniform(rng, (0.88, 1.12), count, 3)
    return haze + (1 - haze) * lit


def blur(picture: Floats, rng: np.random.Generator) -> Floats:
    """Blur with a Gaussian whose widths along x and y differ: defocus and motion. Widths grow with the image's side."""
    count, size = len(picture), picture.shape[1]
    unit = size / 32
    for axis in (1, 2):
        sigma = uniform(rng, (0.05, 0.75), count) * np.float32(unit)
        reach = max(1, round(2 * unit))
        weights = [np.exp(-0.5 * (offset / sigma) ** 2) for offset in range(reach + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        padding = [(0, 0)] * 4
        padding[axis] = (reach, reach)
        padded = np.pad(picture, padding, mode="edge")
        picture = sum(
            window(padded, axis, reach + offset, size) * (weights[abs(offset)] / total)
            for offset in range(-reach, reach + 1)
        )
    return picture


def window(array: Floats, axis: int, start: int, size: int) -> Floats:
    return array[:, start : start + size] if axis == 1 else array[:, :, start : start + size]
