"""From an image file to the classifier's input: the one place for reading, resizing and normalising.

Training's evaluation, the golden set and the vehicle call these functions, so that no two of them can drift apart.
"""

from __future__ import annotations

import io
import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from edge_runtime.manifest import InputSpec

# Magic, width, height, maximum, parted by white space and comments; exactly one byte of white space follows.
PPM_HEADER = re.compile(rb"P6(?:\s+(?:#[^\n]*\n\s*)*\d+){3}")


def load_image(source: str | PathLike[str] | bytes) -> NDArray[np.uint8]:
    """Read an image file, or the bytes of one, as RGB uint8 [H, W, 3].

    Raises InputError for a missing, truncated or unreadable image.
    """
    from PIL import Image  # imported late: importing edge_runtime stays cheap

    name = "image" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(drop_carriage_returns(data))) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be read as an image ({error}); replace or remove it") from error


def drop_carriage_returns(data: bytes) -> bytes:
    """Return a binary PPM whose header has CRLF line ends with LF instead; anything else unchanged.

    Such files are common among copies of GTSRB. Netpbm ends the header after one byte of white space, so readers take
    the LF for the first sample and every channel slips by one. The file is longer by that one byte, which tells it
    from an image that truly starts with the value 10.
    """
    header = PPM_HEADER.match(data) if data.startswith(b"P6") else None
    if header is None or data[header.end() : header.end() + 2] != b"\r\n":
        return data
    width, height, maximum = (int(number) for number in re.sub(rb"#[^\n]*", b"", header.group()).split()[1:])
    samples = width * height * 3 * (1 if maximum < 256 else 2)
    if len(data) - header.end() - 2 != samples:
        return data
    return b"P6\n%d %d\n%d\n" % (width, height, maximum) + data[header.end() + 2 :]


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 [H, W, 3] to [height, width, 3], bilinear with antialiasing (Pillow's BILINEAR)."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def normalize(images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Turn uint8 [N, H, W, 3] into the classifier's float32 [N, 3, H, W]: (pixel / 255 - mean) / std."""
    scaled = images.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
