"""``npz:PATH``: plain arrays in, one clear line for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DataError
from toolkit.data import load


def arrays(count: int = 40, size: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"images": rng.integers(0, 256, (count, size, size, 3), np.uint8), "labels": np.arange(count) % 4}


def test_a_single_file_is_divided(tmp_path: Path) -> None:
    np.savez(tmp_path / "my signs.npz", **arrays(), names=["a", "b", "c", "d"], track=[f"t{i // 2}" for i in range(40)])
    dataset = load(f"npz:{tmp_path / 'my signs.npz'}", size=8)
    assert dataset.name == "my_signs"
    assert dataset.labels == ("a", "b", "c", "d")
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 40
    assert not set(dataset.train.tracks.tolist()) & set(dataset.test.tracks.tolist())


def test_a_folder_may_bring_all_parts(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        np.savez(tmp_path / f"{name}.npz", **arrays(8 * (seed + 1)))
    dataset = load(f"npz:{tmp_path}", size=8)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [8, 16, 24]
    assert dataset.labels == ("0", "1", "2", "3")


def test_images_are_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays(size=12))
    assert load(f"npz:{tmp_path / 'x.npz'}", size=32).train.images.shape[1:] == (32, 32, 3)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "grey": (
        {"images": np.zeros((4, 8, 8), np.uint8)},
        "'images' is uint8 [4, 8, 8], but uint8 [N, H, W, 3] is needed",
    ),
    "channels first": ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, "but uint8 [N, H, W, 3] is needed"),
    "float": ({"images": np.zeros((4, 8, 8, 3), np.float32)}, "'images' is float32 [4, 8, 8, 3]"),
    "none": (
        {"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, int)},
        "'images' is uint8 [0, 8, 8, 3]",
    ),
    "fewer labels": ({"labels": np.zeros(39, int)}, "'labels' is int64 [39], but there are 40 images"),
    "float labels": ({"labels": np.zeros(40)}, "'labels' is float64 [40], but whole numbers [N] are needed"),
    "one-hot labels": ({"labels": np.zeros((40, 4), int)}, "'labels' is int64 [40, 4]"),
    "negative label": ({"labels": np.arange(40) - 1}, "label -1 of image 0 is outside 0 .. 38"),
    "label beyond names": ({"names": ["a", "b"]}, "label 2 of image 2 is outside 0 .. 1"),
    "names of numbers": ({"names": [1, 2, 3, 4]}, "'names' is int64 [4], but text [K] is needed"),
    "fewer tracks": ({"track": np.zeros(3, int)}, "'track' is int64 [3], but there are 40 images"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_arrays_are_refused(case: str, tmp_path: Path) -> None:
    changes, message = BROKEN[case]
    np.savez(tmp_path / "bad.npz", **{**arrays(), **changes})
    with pytest.raises(DataError) as caught:
        load(f"npz:{tmp_path / 'bad.npz'}", size=8)
    assert message in str(caught.value)
    assert "bad.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.array([{"a": 1}, None], dtype=object), labels=np.zeros(2, int))
    with pytest.raises(DataError, match=r"bad\.npz is not a readable \.npz file of plain arrays \(Object arrays"):
        load(f"npz:{tmp_path / 'bad.npz'}")


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **arrays())
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not an archive")
    changed = bytearray(whole)
    changed[500] ^= 0xFF
    (tmp_path / "changed.npz").write_bytes(changed)
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name in ("cut.npz", "text.npz", "changed.npz"):
        with pytest.raises(DataError, match=f"{name} is not a readable .npz file"):
            load(f"npz:{tmp_path / name}")
    with pytest.raises(DataError, match=r"single\.npy is a single array"):
        load(f"npz:{tmp_path / 'single.npy'}")


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz does not exist"):
        load(f"npz:{tmp_path / 'nowhere.npz'}")
    with pytest.raises(DataError, match="is empty"):
        load(f"npz:{tmp_path}")
    np.savez(tmp_path / "test.npz", **arrays())
    with pytest.raises(DataError, match=r"holds no train\.npz"):
        load(f"npz:{tmp_path}")
    np.savez(tmp_path / "train.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match="has no array 'images'; it holds: pictures"):
        load(f"npz:{tmp_path}")
