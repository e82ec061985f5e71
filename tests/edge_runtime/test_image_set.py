"""Images to audit with: three sources, labelled or not, and a clear line for each that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError, DataError, InputError
from edge_runtime.image_set import ImageSet, load_image_set
from tests.edge_runtime.tiny_bundle import (
    CLASSES,
    LABELS,
    SIZE,
    TinyNetwork,
    images,
    npz,
    tiny_files,
    write_tiny_bundle,
)


def write_images(folder: Path, count: int, seed: int = 0, size: int = SIZE) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return pixels


def test_the_bundles_own(tiny: Bundle) -> None:
    found = load_image_set(tiny)
    np.testing.assert_array_equal(found.images, images(12))
    assert found.labels is not None and len(found.labels) == 12
    assert found.source == "audit set of the bundle"


def test_a_flat_folder_is_unlabelled(tiny: Bundle, tmp_path: Path) -> None:
    pixels = write_images(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no image")
    found = load_image_set(tiny, tmp_path)
    np.testing.assert_array_equal(found.images, pixels)
    assert found.labels is None and found.source == str(tmp_path)


def test_class_folders_are_labels_by_name_or_number(tiny: Bundle, tmp_path: Path) -> None:
    write_images(tmp_path / "00004", 2)
    write_images(tmp_path / "no entry", 1)
    write_images(tmp_path / ".hidden", 1)
    found = load_image_set(tiny, tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == [4, 4, LABELS.index("no entry")]


def test_other_sizes_are_resized(tiny: Bundle, tmp_path: Path) -> None:
    write_images(tmp_path, 2, size=31)
    assert load_image_set(tiny, tmp_path).images.shape == (2, SIZE, SIZE, 3)


@pytest.mark.parametrize(("name", "near"), [("priorty", "nearest: priority"), ("5", "known: keep right")])
def test_a_folder_of_an_unknown_class(tiny: Bundle, tmp_path: Path, name: str, near: str) -> None:
    write_images(tmp_path / name, 1)
    with pytest.raises(DataError, match=f"unknown class '{name}'; {near}"):
        load_image_set(tiny, tmp_path)


def test_few_damaged_images_are_skipped_and_named(tiny: Bundle, tmp_path: Path) -> None:
    write_images(tmp_path / "stop", 99)
    write_images(tmp_path / "yield", 1)
    damaged = tmp_path / "stop" / "050.png"
    damaged.write_bytes(damaged.read_bytes()[:80])
    found = load_image_set(tiny, tmp_path)
    assert found.labels is not None and found.labels.tolist() == [0] * 98 + [1]
    assert len(found.skipped) == 1 and "050.png" in found.skipped[0]
    (tmp_path / "stop" / "051.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 100 images .* cannot be read .*first: .*050\.png"):
        load_image_set(tiny, tmp_path)


def test_npz_with_and_without_labels(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz(images=images(3), labels=np.array([0, 4, 2], np.uint8)))
    (tmp_path / "b.npz").write_bytes(npz(images=np.zeros((2, 20, 30, 3), np.uint8)))
    labelled, unlabelled = load_image_set(tiny, tmp_path / "a.npz"), load_image_set(tiny, str(tmp_path / "b.npz"))
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 4, 2] and labelled.labels.dtype == np.int64
    assert unlabelled.labels is None and unlabelled.images.shape == (2, SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a readable .npz"),
        (npz(pictures=images(1)), r"holds no array 'images' \(it holds pictures\)"),
        (npz(images=images(1).astype(float)), r"'images' is float64 .*expected RGB uint8"),
        (npz(images=images(1)[:0]), "with N >= 1"),
        (npz(images=images(1)[..., :1]), "expected RGB uint8"),
        (npz(images=images(1), labels=np.array([CLASSES])), r"labels run from 5 to 5, the bundle's classes are 0\.\.4"),
        (npz(images=images(1), labels=np.array([-1])), "labels run from -1"),
        (npz(images=images(2), labels=np.array([0])), r"'labels' is int64 \[1\]; expected integers \[2\]"),
        (npz(images=images(1), labels=np.array([0.5])), "'labels' is float64"),
        (npz(images=images(1), labels=np.array([None], object)), "is not a readable .npz"),
    ],
)
def test_an_npz_that_does_not_fit(tiny: Bundle, tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        load_image_set(tiny, tmp_path / "set.npz")


def test_sources_that_are_not_there(tiny: Bundle, tmp_path: Path, network: TinyNetwork) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        load_image_set(tiny, tmp_path / "absent")
    with pytest.raises(DataError, match="holds no images"):
        load_image_set(tiny, tmp_path)
    (tmp_path / "video.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"neither a folder of images nor an \.npz"):
        load_image_set(tiny, tmp_path / "video.mp4")
    files = tiny_files(network) | {"audit_set.npz": npz(images=images(1)[:0], labels=np.zeros(0, np.int64))}
    with pytest.raises(BundleError, match="is empty; name a folder"):
        load_image_set(open_bundle(write_tiny_bundle(tmp_path / "bundle", files)))


def test_a_limit_draws_the_same_images_again() -> None:
    full = ImageSet(images(40), np.arange(40), "test")
    first, again, other = (full.limited(10, seed) for seed in (1, 1, 2))
    assert first.labels is not None and again.labels is not None and other.labels is not None
    assert first.labels.tolist() == again.labels.tolist() == sorted(first.labels.tolist())
    assert first.labels.tolist() != other.labels.tolist()
    np.testing.assert_array_equal(first.images, full.images[first.labels])
    assert full.limited(None, 0) is full and full.limited(40, 0) is full
    with pytest.raises(InputError, match="limit is 0"):
        full.limited(0, 0)
