"""Damaged image files of every format: an image, or one line that says why not."""

from __future__ import annotations

import io
import random
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import InputError
from edge_runtime.preprocess import FORMATS, MAX_PIXELS, load_image
from edge_runtime.sources import open_source
from edge_runtime.sources.frame import FAILED
from tests.edge_runtime.source_tools import Reports, encoded, image_folder, picture, read_all


def originals() -> dict[str, bytes]:
    """Return small files of every format, with the variants that take other ways through the decoders."""
    image = Image.fromarray(picture(0, 40, 56))
    variants: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "bmp": (image, "BMP", {}),
        "bmp-palette": (image.convert("P"), "BMP", {}),
        "jpeg": (image, "JPEG", {}),
        "jpeg-progressive": (image, "JPEG", {"progressive": True, "exif": Image.Exif()}),
        "jpeg-cmyk": (image.convert("CMYK"), "JPEG", {}),
        "png": (image, "PNG", {}),
        "png-palette": (image.convert("P"), "PNG", {"transparency": 0}),
        "png-alpha": (image.convert("RGBA"), "PNG", {"dpi": (72, 72)}),
        "ppm": (image, "PPM", {}),
        "pgm": (image.convert("L"), "PPM", {}),
        "tiff": (image, "TIFF", {}),
        "tiff-lzw": (image, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (image, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff-fax": (image.convert("1"), "TIFF", {"compression": "group4"}),
        "webp": (image, "WEBP", {}),
        "webp-lossless": (image, "WEBP", {"lossless": True}),
    }
    found = {}
    for name, (variant, kind, options) in variants.items():
        stream = io.BytesIO()
        variant.save(stream, kind, **options)
        found[name] = stream.getvalue()
    return found


def mutate(data: bytes, randomness: random.Random) -> bytes:
    """Change, cut, double or drop a few of the bytes; half of the changes hit the header."""
    changed = bytearray(data)
    for _ in range(randomness.choice((1, 1, 2, 5, 30))):
        end = len(changed) if randomness.random() < 0.5 else min(len(changed), 64)
        at = randomness.randrange(max(1, end))
        match randomness.randrange(8):
            case 0:
                del changed[at:]
            case 1:
                del changed[at : at + randomness.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + randomness.randint(1, 16)]
            case 3:
                changed[at : at + 4] = randomness.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case _:
                changed[at : at + 1] = bytes([randomness.randrange(256)])
    return bytes(changed)


def read_mutations(count: int, seed: int) -> tuple[int, int]:
    """Read ``count`` mutated files; return how many gave an image and how many were refused."""
    randomness, files, given = random.Random(seed), list(originals().values()), 0
    for _ in range(count):
        data = mutate(randomness.choice(files), randomness)
        try:
            image = load_image(data)
        except InputError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 500 and " at 0x" not in line, line
        else:
            given += 1
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
    return given, count - given


def test_the_originals_are_read_and_cover_every_format() -> None:
    kinds = set()
    for data in originals().values():
        assert load_image(data).shape == (40, 56, 3)
        with Image.open(io.BytesIO(data)) as opened:
            kinds.add(opened.format)
    assert kinds == set(FORMATS)


def test_five_hundred_mutations() -> None:
    given, refused = read_mutations(500, seed=0)
    assert given > 50 and refused > 50


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_thousand_mutations() -> None:
    given, refused = read_mutations(20_000, seed=1)
    assert given > 2000 and refused > 2000


def test_a_folder_of_mutations(tmp_path: Path) -> None:
    image_folder(tmp_path, 1)
    randomness = random.Random(2)
    for number in range(100):
        (tmp_path / f"m{number:03}.png").write_bytes(mutate(encoded(picture(number)), randomness))
    source, reports = open_source(str(tmp_path)), Reports()
    frames = read_all(source, reports)
    assert len(frames) + source.failed == 101 and source.failed == len(reports.of(FAILED)) > 30


def test_refusing_a_bomb_takes_no_memory() -> None:
    bombs = [b"P6\n%d %d\n255\n" % (side, side) for side in (9_000, 60_000, 1 << 31)]
    for side in (9_000, 13_000):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        bombs.append(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        with pytest.raises(InputError, match=r"scale it down|exceeds limit of"):
            load_image(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB
