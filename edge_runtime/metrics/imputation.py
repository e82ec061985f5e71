"""Noisy linear imputation (Rong et al. 2022): removed pixels become the solution of a linear system, plus noise."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.metrics.multigrid import Solver, residual_limit

Array = NDArray[Any]

NOISE = 0.01
# Guaranteed largest error of the linear solve, as a share of the channel's value range (see multigrid.residual_limit).
MAX_ERROR = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-13}
# Images share one stream of noise and read it from an offset below this number, which the image's bytes choose.
NOISE_OFFSETS = 1 << 16
# Values of one field of the solver: as many images are solved together as keep its fields in the cache.
FIELD_VALUES = 1 << 16


def impute(images: Array, keep: NDArray[np.bool_], *, noise: float = NOISE, seed: int = 0) -> Array:
    """Return ``images`` [N, C, H, W] with the pixels that ``keep`` [N, H, W] rejects imputed; the kept ones unchanged.

    Each removed pixel becomes the weighted mean of its in-bounds neighbours, 1/6 beside and 1/12 diagonal, of which
    removed ones are unknowns themselves; then N(0, ``noise``^2) is added. Largest error of the solve: 1e-4 of the
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
    return _Imputer(images, noise, seed).run(rank, removed)


class _Imputer:
    """Images scaled to -1 .. 1 for the solver, their noise, and the threads that share them."""

    def __init__(self, images: Array, noise: float, seed: int) -> None:
        self.images = images
        n, channels, height, width = images.shape
        low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
        self.middle, self.half = low / 2 + high / 2, high / 2 - low / 2
        usable = self.half > 4 * np.finfo(images.dtype).tiny
        self.scaled = (images - self.middle) * np.divide(1, self.half, out=np.zeros_like(self.half), where=usable)
        # the scaled range is 2, and the bound is a share of the range
        self.limit = residual_limit(height, width, 2 * MAX_ERROR[images.dtype])
        fitting = max(1, FIELD_VALUES // ((height + 1) * (width + 1) * channels))
        self.batch = min(fitting // 16 * 16 or fitting, n)
        self._solvers: SimpleQueue[Solver] = SimpleQueue()
        size = channels * height * width
        stream = np.random.default_rng(seed).standard_normal(size + NOISE_OFFSETS) if noise else np.zeros(0)
        self._stream, self._size = (noise * stream).astype(images.dtype), size

    def run(self, rank: Array, removed: Sequence[int]) -> Array:
        """Return [L, N, C, H, W]."""
        out = np.empty((len(removed), *self.images.shape), self.images.dtype)
        parts = [slice(i, i + self.batch) for i in range(0, len(self.images), self.batch)]
        threads = min(len(os.sched_getaffinity(0)), len(parts))
        if threads <= 1:
            for part in parts:
                self._solve(part, rank[part], removed, out[:, part])
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda part: self._solve(part, rank[part], removed, out[:, part]), parts))
        return out

    def _solve(self, part: slice, rank: Array, removed: Sequence[int], out: Array) -> None:
        images, half = self.images[part], self.half[part]
        offset = self.middle[part] + self._noise(images)
        emptied = rank.max(axis=(1, 2))
        solver = self._solver()
        # A pixel that outlasts every level keeps the system regular; images without one are filled afterwards.
        solver.load(self.scaled[part], np.where(rank >= emptied[:, None, None], np.inf, rank))
        for level, count in enumerate(removed):
            target = out[level]
            np.multiply(solver.solve(count, self.limit)[: len(images)], half, out=target)
            target += offset
            np.copyto(target, images, where=(rank >= count)[:, None])
            for index in np.flatnonzero(emptied < count):
                mean = images[index].mean(axis=(1, 2), keepdims=True)
                target[index] = mean + (offset[index] - self.middle[part][index])
                warnings.warn("an image lost every pixel: its channels' means stand in", RuntimeWarning, stacklevel=4)
        self._solvers.put(solver)

    def _noise(self, images: Array) -> Array:
        if not self._stream.size:
            return np.zeros((), images.dtype)
        offsets = [zlib.crc32(image.tobytes()) % NOISE_OFFSETS for image in images]
        return np.stack([self._stream[o : o + self._size] for o in offsets]).reshape(images.shape)

    def _solver(self) -> Solver:
        try:
            return self._solvers.get_nowait()
        except Empty:
            _, channels, height, width = self.images.shape
            return Solver(channels, height, width, self.batch, self.images.dtype)
