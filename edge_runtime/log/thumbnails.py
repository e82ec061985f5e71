"""Small pictures for the log: the image as JPEG, the saliency as grey PNG, neither side above 64 pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import LogError
from edge_runtime.overlay import blend, scale_saliency

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 64
JPEG_QUALITY = 90
BLANK = 128  # the grey behind a saliency whose image was not logged


def encode_image(image: NDArray[np.uint8]) -> bytes:
    """Return the image uint8 [H, W, 3] as a JPEG thumbnail."""
    from PIL import Image

    return _encoded(Image.fromarray(image), "JPEG", quality=JPEG_QUALITY)


def encode_saliency(saliency: NDArray[np.float32]) -> bytes | None:
    """Return |saliency| [H, W] as a PNG thumbnail, scaled to 0..255; None where it is not finite."""
    from PIL import Image

    if not np.isfinite(saliency).all():
        return None
    grey = np.rint(scale_saliency(saliency).values * 255).astype(np.uint8)
    return _encoded(Image.fromarray(grey), "PNG")


def _encoded(picture: Image, format_: str, **options: int) -> bytes:
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, format_, **options)
    return stream.getvalue()


def decode(picture: bytes) -> NDArray[np.uint8]:
    """Return a thumbnail's pixels, uint8 [H, W, 3] or [H, W]. Raises LogError for bytes that are no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG")) as opened:
            if max(opened.size) > SIDE:
                raise LogError(
                    f"a thumbnail of {opened.size[0]} x {opened.size[1]} pixels; at most {SIDE} x {SIDE} fit"
                )
            return np.asarray(opened.convert("L" if opened.mode == "L" else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise LogError(f"a thumbnail is no JPEG or PNG: {error}") from error


def encode_overlay(image: bytes | None, saliency: bytes) -> bytes:
    """Return the logged saliency laid over the logged image (over grey without one) as PNG."""
    from PIL import Image

    map_ = decode(saliency).astype(np.float32) / np.float32(255)
    below = np.full((*map_.shape[:2], 3), BLANK, np.uint8) if image is None else decode(image)
    return _encoded(Image.fromarray(blend(below, map_)), "PNG")
