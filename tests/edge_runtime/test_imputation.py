"""Both engines of the imputation, compiled and numpy: accuracy on hostile masks, what the stopping rule assumes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix, diags, kron
from scipy.sparse.linalg import spsolve

import edge_runtime.metrics
from edge_runtime.metrics import compiled
from edge_runtime.metrics.imputation import FIELD_VALUES, MAX_ERROR, impute, impute_levels
from edge_runtime.metrics.multigrid import SPREAD, Solver, residual_limit

SOURCE = Path(edge_runtime.metrics.__file__).with_name("imputer.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The compiled engine, built from the present source, so that a stale installation cannot pass for it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    target = tmp_path_factory.mktemp("imputer") / "imputer.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, "-O3", "-fPIC", "-shared", *warnings, SOURCE, "-o", target], check=True)
    return compiled.load(target)


@pytest.fixture(params=["compiled", "numpy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    library = request.getfixturevalue("library") if request.param == "compiled" else None
    monkeypatch.setattr(compiled, "library", lambda: library)
    return str(request.param)


def grid_operator(height: int, width: int):
    """Return d - SS as a sparse matrix over all pixels."""
    lines = [diags([np.ones(n - 1), 2 * np.ones(n), np.ones(n - 1)], [-1, 0, 1]) for n in (height, width)]
    box = kron(*lines).tocsr()
    return (diags(np.asarray(box.sum(axis=1)).ravel()) - box).tocsr()


def direct(images: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Impute [N, C, H, W] by one sparse solve in double precision per image."""
    result = images.astype(np.float64)
    operator = grid_operator(*keep.shape[1:])
    for image, mask in zip(result, keep, strict=True):
        flat, removed = image.reshape(len(image), -1), np.flatnonzero(~mask)
        if len(removed):
            right = -operator[removed] @ np.where(mask.ravel(), flat, 0).T
            flat[:, removed] = spsolve(operator[removed][:, removed].tocsc(), right).reshape(len(removed), -1).T
    return result


def masks(size: int) -> dict[str, np.ndarray]:
    """Masks (True: kept) of every kind: scattered, smooth, lattices, lines, and very few kept pixels."""
    rng, found = np.random.default_rng(size), {}
    for sigma in (0.0, 1.0, size / 16, size / 6):
        field = rng.standard_normal((size, size))
        field = gaussian_filter(field, sigma) if sigma else field
        for percent in (1, 10, 50, 90, 99):
            found[f"sigma {sigma:g}, {percent} %"] = field < np.percentile(field, 100 - percent)
    row, column = np.indices((size, size))
    radius = np.hypot(row - size / 2, column - size / 2)
    found |= {
        "lattice 2": (row % 2 == 0) & (column % 2 == 0),
        "lattice 7": (row % 7 == 3) & (column % 7 == 3),
        "stripes": column % 5 == 0,
        "checkers": (row + column) % 2 == 0,
        "diagonal": row == column,
        "diagonals": (row + column) % 7 == 0,
        "frame": (row % (size - 1) == 0) | (column % (size - 1) == 0),
        "edge": column == 0,
        "disk": radius > 0.45 * size,
        "island": radius < 0.1 * size,
        "corner": (row == 0) & (column == 0),
        "two corners": (row == column) & (row % (size - 1) == 0),
        "two neighbours": (row == size // 2) & (column // 2 == size // 4),
    }
    return found


def images(size: int, count: int = 1) -> np.ndarray:
    """Images of four planes: noise, a step, a ramp, and a flat one; far from zero and several units wide."""
    rng = np.random.default_rng(size)
    step, ramp = np.indices((size, size)) / size
    planes = [[7 * rng.random((size, size)), 5 * (step > 0.5), 3 * ramp, np.zeros((size, size))] for _ in range(count)]
    return np.array(planes, np.float32) + 20


@pytest.mark.parametrize("size", [32, 45])
def test_every_mask_equals_the_direct_solve(engine: str, size: int) -> None:
    keep = np.stack(list(masks(size).values()))
    batch = np.repeat(images(size), len(keep), axis=0)
    found = impute(batch, keep, noise=0)
    share = np.abs(found - direct(batch, keep)).max(axis=(2, 3)) / np.maximum(np.ptp(batch, axis=(2, 3)), 1)
    worst = dict(zip(masks(size), share.max(axis=1), strict=True))
    assert max(worst.values()) <= MAX_ERROR[np.dtype(np.float32)], max(worst, key=worst.get)


@pytest.mark.parametrize(
    "name", ["sigma 14, 10 %", "sigma 14, 90 %", "sigma 0, 99 %", "sigma 37.3333, 50 %", "diagonal"]
)
def test_large_masks_equal_the_direct_solve(engine: str, name: str) -> None:
    keep = masks(224)[name][None]
    batch = images(224)[:, :3]
    share = np.abs(impute(batch, keep, noise=0) - direct(batch, keep)).max(axis=(2, 3)) / np.ptp(batch, axis=(2, 3))
    assert share.max() <= MAX_ERROR[np.dtype(np.float32)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(-30, 30))
def test_engines_agree_on_any_size(library, height, width, seed, share, exponent) -> None:
    rng = np.random.default_rng(seed)
    batch = (10**exponent * rng.standard_normal((2, 3, height, width))).astype(np.float32)
    keep = rng.random((2, height, width)) > share
    keep[:, rng.integers(height), rng.integers(width)] = True
    found = []
    for chosen in (library, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "library", lambda chosen=chosen: chosen)
            found.append(impute(batch, keep, noise=0))
    spread = np.ptp(batch, axis=(2, 3), keepdims=True)
    assert (np.abs(found[0] - found[1]) <= 2 * MAX_ERROR[np.dtype(np.float32)] * spread).all()


def test_a_result_does_not_depend_on_its_batch(engine: str) -> None:
    count = 2 * (FIELD_VALUES // 33**2 // 4) + 3  # several parts of either engine
    rng = np.random.default_rng(0)
    batch = images(32, count)
    rank = rng.permuted(np.tile(np.arange(1024), (count, 1)), axis=1).reshape(-1, 32, 32)
    levels = [100, 500, 900]
    together = impute_levels(batch, rank, levels)
    for index in (0, 1, count // 2, count - 1):
        one = slice(index, index + 1)
        assert (impute_levels(batch[one], rank[one], levels) == together[:, one]).all()


def test_one_thread_does_the_same(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, keep = images(32, 40), np.random.default_rng(0).random((40, 32, 32)) > 0.6
    several = impute(batch, keep)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert (impute(batch, keep) == several).all()


def test_noise_has_its_size_and_spares_kept_pixels(engine: str) -> None:
    batch, keep = images(32, 6), np.random.default_rng(0).random((6, 32, 32)) > 0.6
    noise = impute(batch, keep, noise=0.05, seed=3) - impute(batch, keep, noise=0)
    gone = np.broadcast_to(~keep[:, None], noise.shape)
    assert (noise[~gone] == 0).all()
    assert noise[gone].std() == pytest.approx(0.05, rel=0.05)
    assert abs(noise[gone].mean()) < 0.002
    assert (
        abs(np.corrcoef(noise[0][:, ~keep[0] & ~keep[1]].ravel(), noise[1][:, ~keep[0] & ~keep[1]].ravel())[0, 1]) < 0.1
    )


def test_levels_removing_nothing_or_everything(engine: str) -> None:
    batch = images(32, 2)
    rank = np.tile(np.arange(1024).reshape(32, 32), (2, 1, 1))
    with pytest.warns(RuntimeWarning, match="lost every pixel"):
        nothing, last, everything = impute_levels(batch, rank, [0, 1023, 1024], noise=0)
    assert (nothing == batch).all()
    assert np.allclose(last, batch[:, :, -1:, -1:], atol=1e-3)
    assert np.allclose(everything, batch.mean(axis=(2, 3), keepdims=True), atol=1e-5)


def test_a_library_of_another_version_is_not_used(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [*compiled.Task._fields_, ("later", ctypes.c_int64)]
    monkeypatch.setattr(compiled, "Task", type("Task", (ctypes.Structure,), {"_fields_": fields}))
    assert compiled.load(Path(library._name)) is None


@pytest.mark.parametrize("size", [16, 23])
def test_spread_of_the_preconditioned_operator(size: int) -> None:
    """The eigenvalues of BA lie within 1 / SPREAD .. SPREAD: the stopping rule's assumption."""
    pixels = size * size
    operator = grid_operator(size, size).toarray()
    for name, keep in masks(size).items():
        removed = np.flatnonzero(~keep)
        solver = Solver(1, size, size, pixels, np.float64)
        solver.load(np.zeros((1, 1, size, size)), np.where(keep, 1, 0)[None])
        solver._order.core[...] = np.repeat(solver._order.core.reshape(-1, pixels)[:, :1], pixels, axis=1).reshape(
            1, -1
        )
        solver.solve(0.5, 1.0)
        fine = solver.grids[0]
        fine.residual.pixels[0] = np.eye(pixels).reshape(size, size, pixels)
        for function, a, b, target in solver._cycle():
            function(a, b, target)
        preconditioner = fine.update.pixels[0].reshape(pixels, pixels)[np.ix_(removed, removed)]
        assert np.allclose(preconditioner, preconditioner.T, atol=1e-12), name
        values = np.linalg.eigvals(preconditioner @ operator[np.ix_(removed, removed)]).real
        assert values.min() >= 1 / SPREAD, name
        assert values.max() <= SPREAD, name


@pytest.mark.parametrize(
    ("height", "width"), [(4, 4), (7, 7), (32, 32), (64, 64), (1, 32), (2, 40), (8, 100), (30, 90)]
)
def test_resistance_of_the_grid_is_bounded(height: int, width: int) -> None:
    """``residual_limit`` assumes no greater resistance between any two pixels than there is."""
    pixels = height * width
    operator = grid_operator(height, width)
    grounded = operator[1:, 1:].tocsc()  # one corner at zero
    opposite = coo_matrix(([1.0], ([pixels - 2], [0])), (pixels - 1, 1)).toarray()
    exact = spsolve(grounded, opposite)[-1]
    factor = np.sqrt(SPREAD) - 1 / np.sqrt(SPREAD)
    assert exact <= (1 / (factor * residual_limit(height, width, 1.0))) ** 2 <= 1.3 * exact + 0.1
