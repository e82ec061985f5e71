"""From a frame to the classifier's input: each box cut out, resized and normalised as in training's evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.manifest import InputSpec
from edge_runtime.preprocess import normalize, resize
from edge_runtime.sources.frame import Box, Frame


def crop_images(frame: Frame, spec: InputSpec) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3] of the model's size: one image per box, or the whole frame where it has none."""
    parts = [cut(frame.image, box) for box in frame.boxes] or [frame.image]
    return np.stack([resize(part, spec.height, spec.width) for part in parts])


def classifier_input(frame: Frame, spec: InputSpec) -> NDArray[np.float32]:
    """Return the normalised batch float32 [N, 3, H, W] of :func:`crop_images`."""
    return normalize(crop_images(frame, spec), spec)


def cut(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the part of an image [H, W, 3] inside the box, without copying."""
    return image[box.y0 : box.y1, box.x0 : box.x1]
