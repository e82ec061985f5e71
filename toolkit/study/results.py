"""What a measured cell says: one JSON file, and the saliency of a few images beside it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.audit import Distribution
from edge_runtime.errors import RunError
from edge_runtime.folders import new_file
from edge_runtime.metrics.road import area
from edge_runtime.variant import Variant
from toolkit.report.summary import Examples

FORMAT = 1
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for a file of arrays that is not whole."""


class Road(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ROAD of one explainer: for each image, by number in the test split, a text of 0 and 1 per percentage.

    1 where the prediction stayed right, with the most (``morf``) or the least (``lerf``) salient pixels removed.
    """

    percentages: tuple[float, ...]
    images: tuple[int, ...]
    morf: tuple[str, ...]
    lerf: tuple[str, ...]

    def correct(self, order: str) -> NDArray[np.float64]:
        """Return [N, L] of 0.0 and 1.0 for "morf" or "lerf"."""
        return bits(getattr(self, order))

    def area(self, order: str) -> float:
        """Return the area under the curve, divided by the range of the percentages."""
        return float(area(np.asarray(self.percentages), self.correct(order).mean(axis=0)))


class Explained(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One explainer on the explained images, a value for each; ``road`` is None where no image was classified right."""

    gini: Distribution
    gradient_norm: Distribution
    road: Road | None


class CellResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that was measured of one cell.

    ``correct`` is a text of 0 and 1, one per counted image; ``images`` are the numbers of the explained images in the
    test split. ``epochs`` holds the last row of the training's metrics. ``seconds`` by stage. ``notes`` are for people.
    """

    format: int = FORMAT
    name: str
    key: str
    run_key: str
    subject: str
    strategy: str
    timing: str
    seed: int
    variant: Variant
    accuracy: float
    correct: str
    robust_accuracy: float | None
    images: tuple[int, ...]
    explainers: dict[str, Explained]
    parameters: int
    nonzero_parameters: int
    macs: int
    sparsity: float
    device: str
    software: dict[str, str]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


def bits(rows: tuple[str, ...] | str) -> NDArray[np.float64]:
    """Return texts of 0 and 1 as numbers, [N, L] for N texts or [L] for one."""
    if isinstance(rows, str):
        return (np.frombuffer(rows.encode(), np.uint8) - ord("0")).astype(np.float64)
    return np.stack([bits(row) for row in rows])


def text(values: NDArray[np.bool_]) -> str:
    """Return booleans [L] as a text of 0 and 1."""
    return "".join("1" if value else "0" for value in values.tolist())


def write_result(path: Path, result: CellResult, examples: Examples | None) -> None:
    """Write ``path`` (JSON) and, before it, the examples beside it; each whole or not at all. Raises RunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent} cannot be written: {error.strerror}; choose another folder") from error
    if examples is not None:
        arrays: dict[str, Any] = {f"saliency_{name}": maps for name, maps in examples.saliency.items()}
        with new_file(path.with_suffix(".npz"), force=True, error=RunError) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                images=examples.images,
                labels=np.asarray(examples.labels),
                predicted=np.asarray(examples.predicted),
                **arrays,
            )
    with new_file(path, force=True, error=RunError) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(path: Path) -> CellResult:
    """Read a result; raises RunError where it is missing, damaged or of another release."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CellResult)
    except (OSError, msgspec.DecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); delete it, and the study measures it again") from error


def read_examples(path: Path) -> Examples | None:
    """Read the examples beside the result ``path``, or None where it has none; raises RunError for damaged ones."""
    beside = path.with_suffix(".npz")
    if not beside.is_file():
        return None
    try:
        with np.load(beside) as arrays:
            return Examples(
                images=arrays["images"],
                saliency={
                    name.removeprefix("saliency_"): arrays[name]
                    for name in arrays.files
                    if name.startswith("saliency_")
                },
                labels=tuple(arrays["labels"].tolist()),
                predicted=tuple(arrays["predicted"].tolist()),
            )
    except DAMAGED as error:
        raise RunError(f"{beside} cannot be read ({error}); delete {path}, and the study measures it again") from error
