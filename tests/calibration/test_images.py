"""Calibration images: balanced, seeded, checked, streamed."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.images import LabelledImages, calibration_sample, random_images, stream
from edge_runtime.errors import DataError, InputError
from edge_runtime.preprocess import normalize
from tests.calibration.conftest import SPEC, pictures


def found(count: int = 30, classes: int = 3) -> LabelledImages:
    return LabelledImages(pictures(count, 0), np.arange(count) % classes, "pictures")


def test_classes_in_turn_and_by_seed() -> None:
    sample = calibration_sample(found(), SPEC, 3, 12, seed=1)
    assert np.bincount(sample.labels).tolist() == [4, 4, 4]
    assert np.array_equal(sample.images, calibration_sample(found(), SPEC, 3, 12, seed=1).images)
    assert not np.array_equal(sample.images, calibration_sample(found(), SPEC, 3, 12, seed=2).images)
    assert len(calibration_sample(found(), SPEC, 3, 500, seed=1)) == 30


def test_a_single_image_of_one_colour_is_left_out() -> None:
    images = found(200)
    images.images[7] = 13
    sample = calibration_sample(images, SPEC, 3, 200, seed=0)
    assert len(sample) == 199
    images.images[:4] = 13
    with pytest.raises(DataError, match="5 of 200 calibration images of pictures are of one colour"):
        calibration_sample(images, SPEC, 3, 200, seed=0)


def test_fewer_images_than_classes() -> None:
    with pytest.raises(InputError, match=r"2 samples for 3 classes; .*--samples 3"):
        calibration_sample(found(), SPEC, 3, 2, seed=0)
    with pytest.raises(InputError, match="has 4 images to calibrate with, fewer than its 9 classes"):
        calibration_sample(found(4), SPEC, 9, 20, seed=0)


def test_labels_must_fit() -> None:
    with pytest.raises(DataError, match="30 images and 29 labels"):
        calibration_sample(LabelledImages(found().images, found().labels[1:], "pictures"), SPEC, 3, 9, seed=0)


def test_stream_gives_normalised_batches_and_a_digest() -> None:
    images = found(40)
    streamed = stream(images, SPEC)
    for _ in range(2):  # it can be read again
        batches = list(streamed.batches())
        assert len(batches) > 1
        assert np.array_equal(np.concatenate(batches), normalize(images.images, SPEC))
    assert streamed.images == 40
    assert streamed.digest == stream(found(40), SPEC).digest != stream(found(39), SPEC).digest


def test_noise_is_seeded() -> None:
    noise = random_images(SPEC, 3, 7, seed=4)
    assert noise.images.shape == (7, 32, 32, 3) and set(noise.labels) == {0, 1, 2}
    assert np.array_equal(noise.images, random_images(SPEC, 3, 7, seed=4).images)
