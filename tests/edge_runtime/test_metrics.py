"""Gini, reductions, imputation and ROAD against hand-worked values, a direct solve, and the faults of other tools."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from edge_runtime.errors import InputError
from edge_runtime.metrics import (
    REDUCTIONS,
    combined,
    completeness_gap,
    gini,
    gradient_norm,
    image_areas,
    impute,
    max_sensitivity,
    rank_correlation,
    reduce_channels,
    road,
    road_steps,
    seed_stability,
)

ARANGE = np.arange(9, dtype=np.float64).reshape(1, 1, 3, 3)


# Gini


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.ones(16), 0.0),
        (np.eye(16)[0], 15 / 16),
        (np.array([1, 2, 3, 4.0]), 0.25),
        (np.array([4, -1, 3, -2.0]), 0.25),
    ],
)
def test_gini_of_known_maps(values, expected):
    side = int(np.sqrt(values.size))
    assert gini(values.reshape(1, side, side))[0] == pytest.approx(expected, abs=1e-12)


def test_gini_equals_equation_four_and_ignores_sign_and_scale():
    saliency = np.random.default_rng(0).standard_normal((3, 5, 7))
    d = 35
    for value, tiny, huge, map_ in zip(
        gini(saliency), gini(-1e-300 * saliency), gini(1e300 * saliency), saliency, strict=True
    ):
        a = np.sort(np.abs(map_).reshape(-1))
        direct = 1 - 2 * sum(a[k - 1] / a.sum() * (d - k + 0.5) / d for k in range(1, d + 1))
        assert value == pytest.approx(direct, abs=1e-12)
        assert tiny == pytest.approx(value, abs=1e-9)
        assert huge == pytest.approx(value, abs=1e-9)


def test_gini_of_zero_and_nan_maps_is_undefined():
    maps = np.zeros((3, 4, 4))
    maps[1, 0, 0], maps[2, 0, 0] = np.nan, 1.0
    found = gini(maps)
    assert np.isnan(found[:2]).all()
    assert found[2] == 15 / 16


def test_reductions_by_hand():
    attribution = np.array([1.0, -3.0, 1.0]).reshape(1, 3, 1, 1)
    found = {name: float(reduce_channels(attribution, name)[0, 0, 0]) for name in REDUCTIONS}
    assert found == {"sum_abs": 5.0, "abs_sum": 1.0, "max_abs": 3.0, "sum_positive": 0.0}
    with pytest.raises(InputError, match="unknown reduction 'sum_ab'; nearest: sum_abs"):
        reduce_channels(attribution, "sum_ab")


def test_gradient_norm():
    assert gradient_norm(np.full((2, 3, 2, 2), 2.0)) == pytest.approx([np.sqrt(48)] * 2)


# Imputation


@pytest.mark.parametrize(("pixel", "expected"), [((1, 1), 4.0), ((0, 0), 2.4), ((0, 1), 2.5), ((2, 2), 5.6)])
def test_imputed_value_of_one_removed_pixel(pixel, expected):
    keep = np.ones((1, 3, 3), bool)
    keep[0][pixel] = False
    assert impute(ARANGE, keep, noise=0)[0, 0][pixel] == pytest.approx(expected, abs=1e-12)


def test_ramp_is_reproduced_in_the_interior():
    ramp = np.add.outer(np.arange(12.0), 3 * np.arange(12.0))[None, None]
    keep = np.ones((1, 12, 12), bool)
    keep[0, 2:10, 3:9] = False
    assert np.abs(impute(ramp, keep, noise=0) - ramp).max() <= 1e-11 * np.ptp(ramp)


def test_one_kept_pixel_fills_the_image():
    keep = np.zeros((1, 3, 3), bool)
    keep[0, 2, 2] = True
    assert np.abs(impute(ARANGE.astype(np.float32), keep, noise=0) - 8).max() <= 1e-4 * 8


def test_nothing_kept_gives_the_mean_and_says_so():
    with pytest.warns(RuntimeWarning, match="lost every pixel"):
        filled = impute(ARANGE, np.zeros((1, 3, 3), bool), noise=0)
    assert np.allclose(filled, 4.0)


def direct_solve(image, keep):
    """Solve PROTOCOL's system in double precision, one channel at a time."""
    channels, height, width = image.shape
    removed = {place: i for i, place in enumerate(zip(*np.nonzero(~keep), strict=True))}
    matrix, right = lil_matrix((len(removed), len(removed))), np.zeros((len(removed), channels))
    for (y, x), i in removed.items():
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                there = (y + dy, x + dx)
                if (dy, dx) == (0, 0) or not (0 <= there[0] < height and 0 <= there[1] < width):
                    continue
                weight = 1 / 6 if dy == 0 or dx == 0 else 1 / 12
                matrix[i, i] += weight
                if there in removed:
                    matrix[i, removed[there]] -= weight
                else:
                    right[i] += weight * image[:, there[0], there[1]]
    result = image.astype(np.float64).copy()
    solution = spsolve(matrix.tocsc(), right).reshape(len(removed), channels)
    for (y, x), i in removed.items():
        result[:, y, x] = solution[i]
    return result


def smooth(rng, size, sigma):
    """Return saliency whose most salient pixels form blobs."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(rng.standard_normal((size, size)), sigma)


@pytest.mark.parametrize("share", [1, 10, 50, 90, 99])
@pytest.mark.parametrize("sigma", [0.0, 2.0, 8.0])
def test_imputation_equals_the_direct_solve(share, sigma):
    rng = np.random.default_rng(share)
    images = (20 + 5 * rng.standard_normal((3, 3, 32, 32))).astype(np.float32)  # far from zero, several units wide
    saliency = np.stack([smooth(rng, 32, sigma) for _ in images])
    keep = saliency < np.percentile(saliency, 100 - share, axis=(1, 2), keepdims=True)
    found = impute(images, keep, noise=0)
    expected = np.stack([direct_solve(image, mask) for image, mask in zip(images, keep, strict=True)])
    spread = np.ptp(images, axis=(2, 3), keepdims=True)
    assert (np.abs(found - expected) / spread).max() <= 1e-4
    assert (
        found[np.broadcast_to(keep[:, None], found.shape)] == images[np.broadcast_to(keep[:, None], found.shape)]
    ).all()
    low, high = (f(np.where(keep[:, None], images, g), axis=(2, 3)) for f, g in ((np.min, np.inf), (np.max, -np.inf)))
    assert (found >= low[..., None, None] - 1e-4 * spread).all()
    assert (found <= high[..., None, None] + 1e-4 * spread).all()


def test_imputation_at_224_equals_the_direct_solve():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 1, 224, 224)).astype(np.float32)
    saliency = smooth(rng, 224, 12.0)
    keep = (saliency < np.percentile(saliency, 60))[None]
    assert np.abs(impute(image, keep, noise=0)[0] - direct_solve(image[0], keep[0])).max() <= 1e-4 * np.ptp(image)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_imputation_of_any_size_and_mask(height, width, seed, share):
    rng = np.random.default_rng(seed)
    image, keep = rng.standard_normal((2, height, width)), rng.random((height, width)) > share
    keep.flat[rng.integers(keep.size)] = True
    if keep.all():
        keep.flat[0] = keep.size == 1
    found = impute(image[None], keep[None], noise=0)[0]
    expected = image if keep.all() else direct_solve(image, keep)
    assert np.abs(found - expected).max() <= 1e-9


def test_noise_depends_on_seed_and_image_alone():
    rng = np.random.default_rng(0)
    images, keep = rng.standard_normal((40, 3, 16, 16)).astype(np.float32), rng.random((40, 16, 16)) > 0.5
    together = impute(images, keep, seed=1)
    alone = np.concatenate([impute(images[i : i + 1], keep[i : i + 1], seed=1) for i in range(40)])
    assert (together == alone).all()
    assert (together != impute(images, keep, seed=2)).any()
    added = (together - impute(images, keep, noise=0))[np.broadcast_to(~keep[:, None], images.shape)]
    assert added.std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("images", "keep"),
    [
        (np.zeros((1, 3, 4, 4)), np.zeros((1, 5, 4), bool)),
        (np.zeros((1, 3, 4, 4)), np.zeros((1, 4, 4), int)),
        (np.zeros((3, 4, 4)), np.zeros((3, 4), bool)),
        (np.full((1, 1, 4, 4), np.nan), np.ones((1, 4, 4), bool)),
    ],
)
def test_imputation_refuses_what_does_not_fit(images, keep):
    with pytest.raises(InputError):
        impute(images, keep)


# ROAD


def brightest(images):
    """Classify by the mean of the upper against the lower half."""
    upper, lower = images[:, :, :4].mean(axis=(1, 2, 3)), images[:, :, 4:].mean(axis=(1, 2, 3))
    return np.stack([upper, lower], axis=1) * 50


def signs(n=30, seed=0):
    rng = np.random.default_rng(seed)
    images = (0.1 * rng.standard_normal((n, 3, 8, 8))).astype(np.float32)
    saliency = rng.random((n, 8, 8))
    images[:, :, :2, :4] += 3
    saliency[:, :2, :4] += 2
    return images, saliency, np.zeros(n, int)


def test_morf_falls_before_lerf():
    images, saliency, labels = signs()
    levels = (0, 12.5, 25, 50, 75)
    morf, lerf = (road(brightest, images, saliency, labels, levels, order) for order in ("morf", "lerf"))
    assert morf.accuracy[0] == lerf.accuracy[0] == 1.0
    assert morf.accuracy[1] < 0.9
    assert lerf.accuracy[3] == 1.0
    assert combined(morf, lerf) > 0.1
    low, high = morf.auc_interval()
    assert low < morf.auc < high
    assert (morf.accuracy_interval()[0] <= morf.accuracy).all()


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_steps_give_the_same_curve_level_by_level(order):
    images, saliency, labels = signs(5)
    levels = (0, 12.5, 25, 50, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at 100 percent every pixel is lost
        whole = road(brightest, images, saliency, labels, levels, order, seed=3)
        steps = road_steps(images, saliency, labels, levels, order, seed=3)
        batch, count = next(steps), 1
        with pytest.raises(StopIteration) as stop:
            while True:
                assert batch.shape == images.shape
                batch, count = steps.send(brightest(batch)), count + 1
    assert count == len(levels)
    assert (stop.value.value.correct == whole.correct).all()
    np.testing.assert_allclose(stop.value.value.probability, whole.probability, atol=1e-3)


def test_the_mean_of_the_images_areas_is_the_area_between_the_curves():
    images, saliency, labels = signs(12)
    morf, lerf = (road(brightest, images, saliency, labels, (0, 10, 50, 90), order) for order in ("morf", "lerf"))
    areas = image_areas(morf, lerf)
    assert areas.shape == (12,)
    assert areas.mean() == pytest.approx(combined(morf, lerf))


def test_batch_and_order_of_images_change_nothing():
    images, saliency, labels = signs(9)
    whole = road(brightest, images, saliency, labels, (10, 50), seed=3)
    parts = [road(brightest, images[i : i + 1], saliency[i : i + 1], labels[:1], (10, 50), seed=3) for i in range(9)]
    assert (whole.probability == np.concatenate([part.probability for part in parts])).all()


def test_probability_is_that_of_the_label():
    images, saliency, _ = signs(4)
    first, second = (road(brightest, images, saliency, [label] * 4, (5,)) for label in (0, 1))
    assert np.allclose(first.probability + second.probability, 1)
    assert first.mean_probability[0] > 0.9


def test_ties_go_one_by_one():
    seen = []
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    road(lambda batch: seen.append(batch) or brightest(batch), image, np.zeros((1, 8, 8)), [0], (25, 50), noise=0.01)
    changed = (seen[0] != image).any(axis=1).sum(axis=(1, 2))
    assert changed.tolist() == [16, 32]


def test_zero_and_hundred_percent():
    images, saliency, labels = signs(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        curve = road(brightest, images, saliency, labels, (0, 100))
    assert curve.accuracy[0] == 1.0
    assert np.isfinite(curve.probability).all()


@pytest.mark.parametrize("levels", [(), (-1, 5), (5, 101), (10, 10), (20, 10)])
def test_percentages_out_of_range(levels):
    with pytest.raises(InputError, match="percentages are"):
        road(brightest, *signs(2), levels)


def test_road_refuses_nan_unknown_orders_and_wrong_shapes():
    images, saliency, labels = signs(2)
    with pytest.raises(InputError, match="unknown order 'mof'; nearest: morf"):
        road(brightest, images, saliency, labels, order="mof")
    with pytest.raises(InputError, match="NaN"):
        road(brightest, images, np.full_like(saliency, np.nan), labels)
    with pytest.raises(InputError, match=r"labels \[N\]"):
        road(brightest, images, saliency, labels[:1])


# Stability


def test_rank_correlation_with_ties():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 4, 6, 6)).astype(float)
    expected = [spearmanr(x.reshape(-1), y.reshape(-1)).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones((1, 2, 2)), a[:1, :2, :2]))


def test_seed_stability_and_sensitivity():
    fixed = np.random.default_rng(0).random((2, 4, 4))
    assert seed_stability(lambda seed: fixed) == pytest.approx([1, 1])
    noisy = seed_stability(lambda seed: np.random.default_rng(seed).random((2, 30, 30)))
    assert (np.abs(noisy) < 0.2).all()
    images = np.ones((2, 3, 4, 4), np.float32)
    assert max_sensitivity(lambda x: np.ones_like(x), images) == pytest.approx([0, 0])
    doubled = max_sensitivity(lambda x: x, images, radius=0.1, samples=50)
    assert ((doubled > 0.03) & (doubled <= 0.1)).all()


def test_completeness_gap():
    assert completeness_gap(np.ones((1, 3, 2, 2)), np.array([15.0]), np.array([2.0])) == pytest.approx([1.0])
