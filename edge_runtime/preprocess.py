"""From an image file to the classifier's input: the one place for reading, resizing and normalising.

Training's evaluation, the golden set and the vehicle call these functions, so that no two of them can drift apart.
"""

from __future__ import annotations

import io
import re
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.text import encodable

if TYPE_CHECKING:
    from edge_runtime.manifest import InputSpec

# Magic, width, height, maximum, parted by white space and comments; exactly one byte of white space follows.
PPM_HEADER = re.compile(rb"P6(?:\s+(?:#[^\n]*\n\s*)*\d+){3}")
# Pillow's modes of 16 and 32 bits: its conversion to RGB clips instead of scaling, so most pixels would become white.
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
MAX_PIXELS = 1 << 26  # 67 megapixels, 200 MB as RGB; no camera gives more, decompression bombs ask for it
# Pillow knows many more; some of those start other programs.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What comes over a vehicle's buses, not from a person who names a file, gets the two decoders that everybody tests.
FRAME_FORMATS = ("JPEG", "PNG")


def load_image(source: str | PathLike[str] | bytes, formats: tuple[str, ...] = FORMATS) -> NDArray[np.uint8]:
    """Read an image file of ``formats``, or the bytes of one, as RGB uint8 [H, W, 3].

    Raises InputError for an image that is missing, truncated, unreadable or larger than MAX_PIXELS, whatever the
    bytes are.
    """
    name = "image" if isinstance(source, bytes) else encodable(source)
    try:
        return decode_image(source if isinstance(source, bytes) else Path(source).read_bytes(), name, formats)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; check the path") from None
    except InputError:
        raise
    except Exception as error:  # decoders meet damaged bytes with exceptions of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} cannot be read as an image ({reason}); replace or remove it") from error


def decode_image(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> NDArray[np.uint8]:
    """Decode an image file's bytes once its header is found acceptable; see :func:`load_image`."""
    from PIL import Image, UnidentifiedImageError  # imported late: importing edge_runtime stays cheap

    with warnings.catch_warnings():
        # What Pillow warns of is refused below, or mended damage; the limit for sizes is lower than its own.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            opened = Image.open(io.BytesIO(drop_carriage_returns(data)), formats=formats)
        except UnidentifiedImageError:
            # Pillow's message holds a memory address, which no two runs share.
            raise InputError(f"{name} cannot be read as an image (none of {', '.join(formats)}); replace it") from None
        with opened as image:
            check_size(image.width, image.height, name)
            if image.mode in DEEP_MODES:
                raise InputError(f"{name} has more than 8 bits per channel ({image.mode}); convert it to 8-bit RGB")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)


def check_size(width: int, height: int, name: str) -> None:
    """Raise InputError for a picture that is empty or too large to be decoded: the one limit for every source."""
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width} x {height} pixels; it must have at least one")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} is {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down")


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
    """Resize uint8 [H, W, 3] to [height, width, 3], bilinear with antialiasing (Pillow's BILINEAR).

    Raises InputError for another type or shape.
    """
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"image is {describe(image)}; expected RGB uint8 [H, W, 3]")
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def normalize(images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Turn uint8 [N, H, W, 3] into the classifier's float32 [N, 3, H, W]: (pixel / 255 - mean) / std.

    Raises InputError for images of another type, shape or size than ``spec`` takes.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"images are {describe(images)}; expected RGB uint8 [N, H, W, 3]")
    if images.shape[1:3] != (spec.height, spec.width):
        found = f"{images.shape[1]} x {images.shape[2]}"
        raise InputError(f"images are {found}, the model takes {spec.height} x {spec.width}; resize them first")
    scaled = images.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def denormalize(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.uint8]:
    """Invert :func:`normalize`: float32 [N, 3, H, W] to uint8 [N, H, W, 3], rounded and clipped to 0..255."""
    scaled = images.transpose(0, 2, 3, 1) * np.asarray(spec.std, np.float32) + np.asarray(spec.mean, np.float32)
    return np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)


def check_batch(images: NDArray[np.float32], spec: InputSpec) -> None:
    """Raise InputError unless ``images`` is a finite float32 [N, 3, H, W] of the model's size with N >= 1."""
    expected = f"float32 [N, 3, {spec.height}, {spec.width}] (edge_runtime.normalize makes it)"
    if not isinstance(images, np.ndarray):
        raise InputError(f"images are of type {type(images).__name__}; expected a NumPy array {expected}")
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != (3, spec.height, spec.width):
        raise InputError(f"images are {describe(images)}; expected {expected}")
    if not len(images):
        raise InputError("the batch holds no images; pass at least one")
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        first = int(np.argmin(finite))
        raise InputError(f"image {first} of the batch holds NaN or infinite values; check how it was made")


def describe(array: NDArray[np.generic]) -> str:
    """Return type and shape for a message: ``float64 [2, 32, 32]``."""
    return f"{array.dtype} {list(array.shape)}"
