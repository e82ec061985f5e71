"""Noisy linear imputation (Rong et al. 2022): removed pixels become the solution of a linear system, plus noise.

Two engines run the same algorithm, described in multigrid.py: C where the installation found a compiler, and numpy
elsewhere and in double precision. docs/road.md says why, with figures.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.metrics import compiled
from edge_runtime.metrics.multigrid import Solver, residual_limit

Array = NDArray[Any]

NOISE = 0.01
# Guaranteed largest error of the linear solve, as a share of the channel's value range (see multigrid.residual_limit):
# 1e-4 for normalised images, whose range is about 4.
MAX_ERROR = {np.dtype(np.float32): 2.5e-5, np.dtype(np.float64): 1e-13}
# Images share one stream of noise and read it from an offset below this number, which the image's bytes choose.
NOISE_OFFSETS = 1 << 16
# Values of one field of the numpy engine: as many images are solved together as keep its fields in the cache.
FIELD_VALUES = 1 << 16
# Parts per thread of the compiled engine, so that threads end together.
PARTS = 4
NEVER = np.iinfo(np.int32).max


def impute(images: Array, keep: NDArray[np.bool_], *, noise: float = NOISE, seed: int = 0) -> Array:
    """Return ``images`` [N, C, H, W] with the pixels that ``keep`` [N, H, W] rejects imputed; the kept ones unchanged.

    Each removed pixel becomes the weighted mean of its in-bounds neighbours, 1/6 beside and 1/12 diagonal, of which
    removed ones are unknowns themselves; then N(0, ``noise``^2) is added. Largest error of the solve: 2.5e-5 of the
    channel's range in float32. An image without a kept pixel has no solution: it gets each channel's mean, and a
    RuntimeWarning says so. The noise of an image depends on ``seed`` and the image alone, not on the batch.
    """
    if images.ndim != 4 or keep.shape != (len(images), *images.shape[2:]) or keep.dtype != bool:
        raise InputError(
            f"imputation needs images [N, C, H, W] and a boolean mask [N, H, W]; got {images.shape} and {keep.dtype}"
            f" {keep.shape}"
        )
    imputed: Array = impute_levels(images, keep.astype(np.int32), [1], noise=noise, seed=seed)[0]
    return imputed


def impute_levels(images: Array, rank: Array, removed: Sequence[int], *, noise: float = NOISE, seed: int = 0) -> Array:
    """Return [L, N, C, H, W]: for each entry of ``removed``, the images with the pixels of lower ``rank`` imputed.

    ``rank`` [N, H, W] is each pixel's place in the removal order. ``removed`` ascends: each level starts from the
    solution of the one before.
    """
    if not np.isfinite(images).all():
        raise InputError("the images hold NaN or infinity; leave those out before imputing")
    if images.dtype not in MAX_ERROR:
        images = images.astype(np.float32)
    problem = _problem(images, rank, list(removed), noise, seed)
    out = np.empty((len(removed), *images.shape), images.dtype)
    _solve(problem, out)
    last = rank.max(axis=(1, 2))
    for level, index in zip(*np.nonzero(last < np.array(removed)[:, None]), strict=True):
        mean = images[index].mean(axis=(1, 2), keepdims=True)
        out[level, index] = mean + problem.noise(slice(index, index + 1))
        warnings.warn("an image lost every pixel: its channels' means stand in", RuntimeWarning, stacklevel=2)
    return out


@dataclass(frozen=True)
class Problem:
    """What both engines solve: ``images`` [N, C, H, W] = ``middle`` + ``half`` * (-1 .. 1), both [N, C, 1, 1].

    Pixels of ``order`` int32 [N, H, W] below an entry of ``removed`` are unknown at that level; every image keeps one.
    The noise of image n is ``stream`` from ``offsets[n]`` on; the stream is empty without noise.
    """

    images: Array
    middle: Array
    half: Array
    order: NDArray[np.int32]
    removed: list[int]
    limit: float
    stream: Array
    offsets: list[int]

    def noise(self, part: slice) -> Array:
        """Return the noise of the images of ``part``, broadcastable to them."""
        if not self.stream.size:
            return np.zeros((), self.images.dtype)
        shape = self.images.shape[1:]
        size = int(np.prod(shape))
        return np.stack([self.stream[o : o + size] for o in self.offsets[part]]).reshape(-1, *shape)


def _problem(images: Array, rank: Array, removed: list[int], noise: float, seed: int) -> Problem:
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    # planes flatter than this have no reciprocal; their middle is the solution
    half[half <= 4 * np.finfo(images.dtype).tiny] = 0
    # A pixel that outlasts every level keeps the system regular; images without one are filled afterwards.
    order = np.where(rank >= rank.max(axis=(1, 2), keepdims=True), NEVER, rank).astype(np.int32)
    height, width = images.shape[2:]
    size = int(np.prod(images.shape[1:]))
    stream = np.random.default_rng(seed).standard_normal(size + NOISE_OFFSETS if noise else 0)
    return Problem(
        images=images,
        middle=middle,
        half=half,
        order=order,
        removed=removed,
        limit=residual_limit(height, width, 2 * MAX_ERROR[images.dtype]),  # the scaled range is 2
        stream=(noise * stream).astype(images.dtype),
        offsets=[zlib.crc32(image.tobytes()) % NOISE_OFFSETS for image in images] if noise else [],
    )


def _solve(problem: Problem, out: Array) -> None:
    """Share the images among threads; an image's result does not depend on the part it is in."""
    count, threads = len(problem.images), len(os.sched_getaffinity(0))
    library = compiled.library() if problem.images.dtype == np.float32 else None
    solve: Callable[[slice], None]
    if library is not None:
        size = max(1, -(-count // (threads * PARTS)))
        solve = partial(compiled.solve, library, problem, out)
    else:
        engine = NumpyEngine(problem, out)
        size, solve = engine.batch, engine.solve
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            solve(part)
    else:
        with ThreadPoolExecutor(min(threads, len(parts))) as pool:
            list(pool.map(solve, parts))


class NumpyEngine:
    """Hands parts of a problem to numpy solvers, one per thread."""

    def __init__(self, problem: Problem, out: Array) -> None:
        self.problem, self.out = problem, out
        count, channels, height, width = problem.images.shape
        fitting = max(1, FIELD_VALUES // ((height + 1) * (width + 1) * channels))
        # multiples of 16 images keep every row at a cache line's start
        self.batch = min(fitting // 16 * 16 or fitting, count)
        scale = np.divide(1, problem.half, out=np.zeros_like(problem.half), where=problem.half > 0)
        self.scaled = (problem.images - problem.middle) * scale
        self._solvers: SimpleQueue[Solver] = SimpleQueue()

    def solve(self, part: slice) -> None:
        """Impute the images of ``part`` at every level."""
        problem, images = self.problem, self.problem.images[part]
        offset = problem.middle[part] + problem.noise(part)
        solver = self._solver()
        solver.load(self.scaled[part], problem.order[part])
        for level, count in enumerate(problem.removed):
            target = self.out[level, part]
            np.multiply(solver.solve(count, problem.limit)[: len(images)], problem.half[part], out=target)
            target += offset
            np.copyto(target, images, where=(problem.order[part] >= count)[:, None])
        self._solvers.put(solver)

    def _solver(self) -> Solver:
        try:
            return self._solvers.get_nowait()
        except Empty:
            _, channels, height, width = self.problem.images.shape
            return Solver(channels, height, width, self.batch, self.problem.images.dtype)
