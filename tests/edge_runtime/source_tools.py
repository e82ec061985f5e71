"""What the tests of sources share: pictures, reports, and reading a source to its end."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import InputError
from edge_runtime.sources import Frame, Source, open_source


def never() -> bool:
    """A stop that does not come."""
    return False


@dataclass
class Reports:
    """Everything that a source reported, in order."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, name: str, message: str) -> None:
        assert "\n" not in message, message
        self.events.append((name, message))

    def of(self, name: str) -> list[str]:
        """Return the messages of the events of one name."""
        return [message for event, message in self.events if event == name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def read_all(source: Source, reports: Reports | None = None) -> list[Frame]:
    """Return all frames of a source and leave it."""
    with source:
        return list(source.frames(reports or Reports(), never))


def is_read(spec: Path, **options: Any) -> bool:
    """Read a damaged source to its end; False where it is refused, which must take one line."""
    try:
        read_all(open_source(str(spec), **options))
    except InputError as error:
        assert "\n" not in str(error)
        return False
    return True


def picture(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Return a picture of blocks that no other seed gives; smooth enough for lossy codecs."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width])


def encoded(image: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    """Return an image file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def image_folder(folder: Path, count: int, seed: int = 0) -> Path:
    """Write pictures 000.png ... and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(encoded(picture(seed + number)))
    return folder
