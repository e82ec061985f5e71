"""ROAD's imputation against the published way, one sparse direct solve per image, and a whole audit against its model.

    python -m benchmarks.road          all; records benchmarks/results/road.json
    python -m benchmarks.road 32       imputation at one size, printed only (32, 224)
    python -m benchmarks.road audit    the audit alone, printed only

Both sides run alternately in one process on the same cores. The published implementations (Rong et al. 2022 and its
copies) fill a scipy ``lil_matrix`` per image and mask, offset by offset, and call ``spsolve`` in double precision: so
does ``published`` here, and it is the reference for the error too. It uses one core and ``impute_levels`` all of them,
so processor time is recorded beside the clock's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csc_matrix, lil_matrix
from scipy.sparse.linalg import spsolve

from benchmarks.common import alternate, milliseconds, ratio, record
from benchmarks.gradients import session
from edge_runtime.metrics import compiled, road
from edge_runtime.metrics.imputation import impute_levels
from edge_runtime.metrics.road import removal_rank
from export.to_onnx import to_onnx
from toolkit import models

Array = NDArray[Any]

PERCENTAGES = (10, 50, 90)
# Size -> images for this package's side, images for the published side (each at every percentage), seconds to measure.
SIZES = {32: (128, 8, 20.0), 224: (4, 1, 35.0)}
BARS = {32: 25.0, 224: 8.0}
AUDIT_PERCENTAGES = tuple(range(5, 96, 5))
AUDIT_IMAGES, AUDIT_THREADS, AUDIT_BAR = 64, 2, 1.2
CLASSES = 43
# Without its library the imputation falls back on numpy.
ENGINES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "compiled": nullcontext,
    "numpy": partial(mock.patch.object, compiled, "library", return_value=None),
}
WEIGHTS = {(dy, dx): 1 / 12 if dy and dx else 1 / 6 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}


def inputs(count: int, size: int) -> tuple[NDArray[np.float32], Array]:
    """Return images [N, 3, S, S] of mean 0 and variance 1, and smooth saliency [N, S, S].

    Details and holes take the same share of the side at every size.
    """
    rng = np.random.default_rng(size)
    sigma = size / 20
    noise = rng.standard_normal((count, 4, size, size))
    smooth = np.stack([[gaussian_filter(plane, sigma, mode="nearest") for plane in image] for image in noise])
    smooth /= smooth.std(axis=(2, 3), keepdims=True)
    images = smooth[:, :3] + 0.1 * rng.standard_normal((count, 3, size, size))
    return images.astype(np.float32), smooth[:, 3]


def published(image: Array, keep: NDArray[np.bool_]) -> Array:
    """Impute one image [C, H, W] by one sparse system for its mask [H, W]."""
    channels, height, width = image.shape
    flat, known = image.reshape(channels, -1).astype(np.float64), keep.reshape(-1)
    removed = np.flatnonzero(~known)
    number = np.zeros(known.size, int)
    number[removed] = np.arange(removed.size)
    matrix, right = lil_matrix((removed.size, removed.size)), np.zeros((removed.size, channels))
    diagonal = np.ones(removed.size)
    for (dy, dx), weight in WEIGHTS.items():
        y, x = removed // width + dy, removed % width + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        equation, neighbour = np.flatnonzero(inside), (y * width + x)[inside]
        given = known[neighbour]
        right[equation[given]] += weight * flat[:, neighbour[given]].T
        matrix[equation[~given], number[neighbour[~given]]] = -weight
        diagonal[~inside] -= weight
    matrix[np.arange(removed.size), np.arange(removed.size)] = diagonal
    result = flat.copy()
    result[:, removed] = np.asarray(spsolve(csc_matrix(matrix), right)).reshape(removed.size, channels).T
    return result.reshape(image.shape)


def imputation(size: int, engine: str) -> Iterator[dict[str, Any]]:
    """Yield time per imputed image of both sides, their ratio, and the largest difference."""
    count, few, seconds = SIZES[size]
    images, saliency = inputs(count, size)
    rank = removal_rank(saliency, "morf")
    levels = [round(p / 100 * size * size) for p in PERCENTAGES]

    def ours(chosen: list[int]) -> Array:
        with ENGINES[engine]():
            return impute_levels(images, rank, chosen, noise=0)

    def peer(chosen: list[int]) -> Array:
        return np.stack([[published(images[i], rank[i] >= level) for i in range(few)] for level in chosen])

    error = float(np.abs(ours(levels)[:, :few] - peer(levels)).max())
    wanted = {"all": levels, **{str(p): [level] for p, level in zip(PERCENTAGES, levels, strict=True)}}
    meter = Meter()
    runs = {
        f"{side.__name__} {name}": meter.wrap(f"{side.__name__} {name}", partial(side, chosen))
        for name, chosen in wanted.items()
        for side in (ours, peer)
    }
    samples = alternate(runs, seconds=seconds)
    for name, chosen in wanted.items():
        a, b = f"peer {name}", f"ours {name}"
        calls = {a: few * len(chosen), b: count * len(chosen)}
        yield {
            "measure": "imputation",
            "engine": engine,
            "size": size,
            "removed_percent": list(PERCENTAGES) if name == "all" else int(name),
            "published_ms": round(milliseconds(samples[a]) / calls[a], 3),
            "ours_ms": round(milliseconds(samples[b]) / calls[b], 4),
            "times": round(ratio(samples, a, b) * calls[b] / calls[a], 1),
            "times_in_processor_time": round(meter.seconds(a) / calls[a] / (meter.seconds(b) / calls[b]), 1),
            "max_difference": float(f"{error:.2g}"),
            "bar": BARS[size] if name == "all" else None,
        }


class Meter:
    """Adds up processor time, of all threads, by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}

    def wrap(self, name: str, run: Callable[[], Any]) -> Callable[[], None]:
        """Return ``run``, metered."""

        def metered() -> None:
            start = time.process_time()
            run()
            self._seconds[name] = self._seconds.get(name, 0.0) + time.process_time() - start
            self._calls[name] = self._calls.get(name, 0) + 1

        return metered

    def seconds(self, name: str) -> float:
        """Return the mean of a call."""
        return self._seconds[name] / self._calls[name]


def _both_engines(size: int) -> Iterator[dict[str, Any]]:
    for engine in ENGINES:
        yield from imputation(size, engine)


def audit() -> Iterator[dict[str, Any]]:
    """Yield the time of a MoRF audit of VGG-16 at 32x32 over that of its forward passes alone."""
    images, saliency = inputs(AUDIT_IMAGES, 32)
    model = session(to_onnx(models.build("vgg16", CLASSES, input_size=32), input_size=(32, 32)), AUDIT_THREADS)
    batches: list[Array] = []

    def classify(batch: Array) -> Array:
        logits: Array = model.run(["logits"], {"image": batch})[0]
        return logits

    def remember(batch: Array) -> Array:
        batches.append(batch)
        return classify(batch)

    labels = np.zeros(AUDIT_IMAGES, int)
    road(remember, images, saliency, labels, AUDIT_PERCENTAGES)
    samples = alternate(
        {
            "audit": lambda: road(classify, images, saliency, labels, AUDIT_PERCENTAGES),
            "forward": lambda: [classify(batch) for batch in batches],
        },
        seconds=30.0,
    )
    yield {
        "measure": "audit",
        "model": "vgg16@32",
        "images": AUDIT_IMAGES,
        "levels": len(AUDIT_PERCENTAGES),
        "threads": AUDIT_THREADS,
        "audit_ms": round(milliseconds(samples["audit"]), 1),
        "forward_ms": round(milliseconds(samples["forward"]), 1),
        "times": round(ratio(samples, "audit", "forward"), 3),
        "bar": AUDIT_BAR,
    }


PARTS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    **{str(size): partial(_both_engines, size) for size in SIZES},
    "audit": audit,
}


def main(wanted: list[str]) -> None:
    rows = []
    for name in wanted or PARTS:
        for row in PARTS[name]():
            print(row, flush=True)
            rows.append(row)
    if not wanted:
        print(record("road", rows))


if __name__ == "__main__":
    main(sys.argv[1:])
