"""One way from image file to network input, and one clear line for what cannot take it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import InputError
from edge_runtime.manifest import InputSpec
from edge_runtime.preprocess import MAX_PIXELS, check_batch, check_size, denormalize, load_image, normalize, resize

SPEC = InputSpec(height=6, width=4, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "WEBP"])
def test_lossless_files_come_back_exactly(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(PIXELS).save(tmp_path / "sign", kind, **options)
    np.testing.assert_array_equal(load_image(tmp_path / "sign"), PIXELS)
    np.testing.assert_array_equal(load_image((tmp_path / "sign").read_bytes()), PIXELS)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = load_image(encoded(Image.fromarray(PIXELS).convert(mode), kind))
    assert found.shape == (6, 4, 3) and found.dtype == np.uint8


def test_a_ppm_with_crlf_header_is_not_shifted() -> None:
    data = b"P6\r\n4 6\r\n255\r\n" + PIXELS.tobytes()
    np.testing.assert_array_equal(load_image(data), PIXELS)
    first_is_newline = PIXELS.copy()
    first_is_newline[0, 0, 0] = 10
    data = b"P6\n4 6\n255\r" + first_is_newline.tobytes()
    np.testing.assert_array_equal(load_image(data), first_is_newline)


def test_sixteen_bits_are_refused_instead_of_clipped() -> None:
    deep = Image.fromarray(np.full((6, 4), 40_000, np.uint16))
    with pytest.raises(InputError, match="more than 8 bits per channel"):
        load_image(encoded(deep))


@pytest.mark.parametrize("data", [b"", b"hello", encoded(Image.fromarray(PIXELS))[:60]])
def test_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(InputError, match="image cannot be read as an image"):
        load_image(data)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png does not exist"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="cannot be read as an image"):
        load_image(tmp_path)


def test_resize_is_bilinear_with_antialiasing() -> None:
    checkerboard = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((4, 4))).astype(np.uint8) * 255
    image = np.repeat(checkerboard[:, :, None], 3, axis=2)
    small = resize(image, 4, 4)
    assert small.shape == (4, 4, 3) and small.dtype == np.uint8
    # Sampling without antialiasing would give 0 or 255.
    assert 100 < small.min() <= small.max() < 155
    assert resize(image, 64, 64) is image


@pytest.mark.parametrize(
    "image",
    [PIXELS.astype(np.float32), PIXELS[:, :, 0], PIXELS[:, :, :2], PIXELS[:0]],
)
def test_resize_refuses_other_arrays(image: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"expected RGB uint8 \[H, W, 3\]"):
        resize(image, 4, 4)


def test_normalize_and_back() -> None:
    images = PIXELS[None]
    normalised = normalize(images, SPEC)
    assert normalised.shape == (1, 3, 6, 4) and normalised.dtype == np.float32 and normalised.flags.c_contiguous
    expected = (images[0, 2, 3] / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    np.testing.assert_allclose(normalised[0, :, 2, 3], expected, rtol=1e-5)
    np.testing.assert_array_equal(denormalize(normalised, SPEC), images)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (PIXELS, r"uint8 \[6, 4, 3\]; expected RGB uint8 \[N, H, W, 3\]"),
        (PIXELS[None].astype(np.float64), "float64"),
        (PIXELS[None].transpose(0, 3, 1, 2), "expected RGB"),
        (PIXELS[None].transpose(0, 2, 1, 3), "images are 4 x 6, the model takes 6 x 4; resize them first"),
    ],
)
def test_normalize_refuses_other_arrays(images: NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        normalize(images, SPEC)


def test_check_batch_names_the_image_that_is_not_finite() -> None:
    batch = normalize(np.repeat(PIXELS[None], 3, axis=0), SPEC)
    check_batch(batch, SPEC)
    batch[2, 1, 0, 0] = np.nan
    with pytest.raises(InputError, match="image 2 of the batch holds NaN or infinite values"):
        check_batch(batch, SPEC)


def test_decompression_bombs_are_refused_before_decoding() -> None:
    wide = b"P6\n%d %d\n255\n" % (MAX_PIXELS, 2)
    with pytest.raises(InputError, match=r"image is 67108864 x 2 pixels, more than 67,108,864; scale it down"):
        load_image(wide)
    # The first is a bomb to Pillow as well, of the second it would only warn.
    for side in (14_000, 10_000):
        stream = io.BytesIO()
        Image.new("1", (side, side)).save(stream, "PNG")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(InputError, match=r"scale it down|decompression bomb"):
                load_image(stream.getvalue())


def test_formats_that_are_not_images_of_cameras_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be read as an image"):
        load_image(encoded(Image.fromarray(PIXELS), "EPS"))


def test_check_size() -> None:
    check_size(1, MAX_PIXELS, "frame")
    with pytest.raises(InputError, match="frame is 0 x 7 pixels; it must have at least one"):
        check_size(0, 7, "frame")
