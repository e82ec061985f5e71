"""``folder:PATH``: one folder per class, parts, and damaged images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import DataError
from toolkit.data import load


def write_image(path: Path, level: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(level).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_classes(root: Path, classes: tuple[str, ...], count: int) -> Path:
    for position, name in enumerate(classes):
        for number in range(count):
            write_image(root / name / f"{number:03}.png", position * count + number)
    return root


def test_classes_are_ordered_by_number_then_name(tmp_path: Path) -> None:
    write_classes(tmp_path, ("10", "2", "yield", "stop"), 5)
    dataset = load(f"folder:{tmp_path}", size=16)
    assert dataset.labels == ("2", "10", "stop", "yield")
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 20
    assert dataset.train.images.shape[1:] == (16, 16, 3)


def test_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("Train", 4), ("val", 1), ("testing", 2)):
        write_classes(tmp_path / part, ("a", "b"), count)
    (tmp_path / "Train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "Train" / ".cache").mkdir()
    dataset = load(f"folder:{tmp_path}", size=8)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [8, 2, 4]


def test_a_damaged_image_is_skipped_counted_and_named(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"), 60)
    victim = tmp_path / "a" / "007.png"
    victim.write_bytes(victim.read_bytes()[:100])
    dataset = load(f"folder:{tmp_path}", size=8)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 119
    assert len(dataset.skipped) == 1
    assert str(victim) in dataset.describe() and "left out 1 damaged" in dataset.describe()


def test_more_than_one_percent_of_damage_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"), 60)
    for name in ("a/007.png", "b/008.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(f"folder:{tmp_path}", size=8)
    assert "2 of 120 images" in str(caught.value) and "1%" in str(caught.value)
    assert f"first: {tmp_path / 'a' / '007.png'}" in str(caught.value)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; check the path"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is empty; check the path"):
        load(f"folder:{tmp_path}")
    file = write_image(tmp_path / "sign.png")
    with pytest.raises(DataError, match="is a file, but a folder is needed"):
        load(f"folder:{file}")
    with pytest.raises(DataError, match="holds 0 class folders, but two are needed"):
        load(f"folder:{tmp_path}")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"), 3)
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/c holds no images"):
        load(f"folder:{tmp_path}")


def test_parts_must_agree_on_the_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("a", "b"), 3)
    write_classes(tmp_path / "test", ("a", "z"), 3)
    with pytest.raises(DataError, match=r"test/z is no class of the training part"):
        load(f"folder:{tmp_path}")
    for name in ("a", "z"):
        for file in (tmp_path / "test" / name).iterdir():
            file.unlink()
        (tmp_path / "test" / name).rmdir()
    with pytest.raises(DataError, match="test holds no class folders"):
        load(f"folder:{tmp_path}")


def test_progress_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path, ("a", "b"), 5)
    seen: list[tuple[int, int]] = []
    load(f"folder:{tmp_path}", size=8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]
