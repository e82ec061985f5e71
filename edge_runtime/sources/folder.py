"""Image files: all of a folder in the order of their names, or a single one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.image_set import IMAGE_SUFFIXES, image_files
from edge_runtime.preprocess import load_image
from edge_runtime.sources.frame import FAILED, Frame, Report
from edge_runtime.text import encodable


class FolderSource:
    """Image files as frames; a frame's id is the file's name, below class folders "folder/name"."""

    live = False

    def __init__(self, path: Path) -> None:
        """Take the images of a folder, of the folders directly below one without images, or one image file.

        Raises InputError where there are none.
        """
        self.name = encodable(path)
        self.failed = 0
        self._files = list_images(path)

    def frames(self, report: Report, stopping: Callable[[], bool]) -> Iterator[Frame]:
        """Yield the images; one that cannot be read is reported, counted, and passed over."""
        given = 0
        for frame_id, file in self._files.items():
            if stopping():
                return
            try:
                image = load_image(file)
            except InputError as error:
                self.failed += 1
                report(FAILED, str(error))
            else:
                given += 1
                yield Frame(frame_id, image, captured_ns=time.monotonic_ns())
        if not given:
            raise InputError(f"none of the {len(self._files)} images of {self.name} can be read; check their format")

    def __enter__(self) -> FolderSource:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing stays open between two images."""


def list_images(path: Path) -> dict[str, Path]:
    """Return frame id -> image file, sorted; raises InputError where there is none."""
    if path.is_file():
        return {encodable(path.name): path}
    try:
        files = {encodable(file.name): file for file in image_files(path)}
        below = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
        if not files:
            files = {encodable(file.relative_to(path)): file for folder in below for file in image_files(folder)}
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror}; check the path and its permissions") from error
    if not files:
        raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path")
    return files
