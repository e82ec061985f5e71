"""Rendered signs: deterministic, balanced, varied; hard for a linear model and easy for a VGG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.data import load
from toolkit.data.reading import Request
from toolkit.data.rendered import draw_poses, read_rendered, render, warp_signs
from toolkit.data.signs import SIGNS, draw_sign

SMALL = "rendered?train=110&validation=44&test=44"


def test_the_same_seed_gives_the_same_images() -> None:
    first, again, other = load(SMALL), load(SMALL), load(SMALL, seed=1)
    assert first.digest == again.digest != other.digest


def test_there_are_enough_classes_and_all_are_balanced() -> None:
    dataset = load(SMALL)
    assert len(dataset.labels) == len(SIGNS) >= 16
    for split, count in ((dataset.train, 5), (dataset.validation, 2), (dataset.test, 2)):
        assert np.bincount(split.labels).tolist() == [count] * len(SIGNS)
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == (32, 32, 3)
        assert split.labels.dtype == np.int64 and split.tracks is None


def test_no_image_repeats() -> None:
    dataset = load(SMALL)
    images = np.concatenate([dataset.train.images, dataset.validation.images, dataset.test.images])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_illumination_and_contrast_vary() -> None:
    images = load(SMALL).train.images.astype(float)
    brightness, contrast = images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))
    assert brightness.min() < 50 and brightness.max() > 130
    assert contrast.min() > 5  # nothing is so dark or faded that no sign is left
    assert contrast.max() > 60


@pytest.mark.parametrize("size", [16, 48])
def test_other_sizes_are_drawn_not_resized(size: int) -> None:
    split = render(len(SIGNS), size, np.random.default_rng(0))
    assert split.images.shape == (len(SIGNS), size, size, 3)


@pytest.mark.parametrize("label", SIGNS)
def test_every_sign_fills_its_canvas_and_differs_from_all_others(label: str) -> None:
    drawn = {name: np.asarray(draw_sign(name, 64)).astype(int) for name in SIGNS}
    alpha = drawn[label][..., 3]
    assert 0.3 < (alpha > 127).mean() < 0.75
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0
    differences = {name: np.abs(image - drawn[label]).mean() for name, image in drawn.items() if name != label}
    assert min(differences.values()) > 2


def test_signs_are_seen_in_perspective_and_stay_in_sight() -> None:
    rng = np.random.default_rng(0)
    poses = draw_poses(200, rng)
    labels = np.full(200, list(SIGNS).index("no entry"))
    signs = warp_signs(labels, 32, [draw_sign(label, 64).convert("RGBa") for label in SIGNS], poses)
    covered = signs[..., 3].mean(axis=(1, 2))
    assert covered.min() > 0.15 and covered.max() < 0.8
    assert np.abs(poses[:, 2, :2]).max() > 0.05  # not affine


def test_progress_counts_all_parts() -> None:
    seen: list[tuple[int, int]] = []
    options = {"train": "300", "validation": "22", "test": "22"}
    read_rendered(Request(Path(), 16, options, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(250, 344), (300, 344), (322, 344), (344, 344)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_linear_model_fails_and_a_small_vgg_does_not() -> None:
    from benchmarks.rendered import linear_accuracy, vgg_accuracy

    dataset = load("rendered")
    assert linear_accuracy(dataset) < 0.70
    assert vgg_accuracy(dataset) > 0.95
