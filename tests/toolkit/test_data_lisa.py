"""``lisa:PATH``: frames, native crops and arrays; 47 classes, the study's 14, and its split."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import DataError, InputError
from toolkit.data import load
from toolkit.data.lisa import CLASSES_14, CLASSES_47, LABELLINGS, first_rows

HEADER = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
    "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number"
)
TAGS = ("stop", "speedLimit35", "speedLimit45", "yield")
VIDEOS, FRAMES = 5, 2


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)


def annotations() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Return (frame, tag, box): per tag five videos of two frames, each frame with one sign."""
    return [
        (f"vid{video % 2}/frames/{tag}_{video}.avi_image{number}.png", tag, (5 + number, 7, 25 + number, 31))
        for tag in TAGS
        for video in range(VIDEOS)
        for number in range(FRAMES)
    ]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    root = tmp_path / "lisa"
    lines = [HEADER]
    for index, (name, tag, box) in enumerate(annotations()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame(index)).save(path)
        lines.append(";".join((name, tag, *map(str, box), "0,0", "x.avi", "1", "x.avi", "2")))
    (root / "allAnnotations.csv").write_text("\n".join(lines) + "\n")
    return root


def to_crops(official: Path, root: Path) -> Path:
    lines = ["file,row,label,x1,y1,x2,y2,frame,source_path"]
    for index, (name, tag, (left, top, right, bottom)) in enumerate(annotations()):
        file = f"{tag}/{index:05}.png"
        (root / tag).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame(index)[top:bottom, left:right]).save(root / file)
        lines.append(f"{file},{index},{tag},{left},{top},{right},{bottom},{name},x")
    (root / "index.csv").write_text("\n".join(reversed(lines[1:])).join((lines[0] + "\n", "\n")))
    (root / "allAnnotations.csv").write_bytes((official / "allAnnotations.csv").read_bytes())
    return root


def to_zip(crops: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(crops.rglob("*.*")):
            if file.name != "allAnnotations.csv":
                archive.write(file, file.relative_to(crops))
    (path.parent / "allAnnotations.csv").write_bytes((crops / "allAnnotations.csv").read_bytes())
    return path


def to_arrays(official: Path, root: Path) -> Path:
    from edge_runtime.preprocess import resize

    root.mkdir()
    found = annotations()
    images = np.stack([resize(frame(i)[b[1] : b[3], b[0] : b[2]], 16, 16) for i, (_, _, b) in enumerate(found)])
    labels = np.asarray([CLASSES_47.index(tag) for _, tag, _ in found])
    track = np.asarray([f"{name.split('/')[0]}/{name.split('/')[-1].split('_image')[0]}" for name, _, _ in found])
    order = np.random.default_rng(0).permutation(len(found))
    for name, rows in (("train", order[:30]), ("test", order[30:])):
        np.savez(root / f"{name}.npz", images=images[rows], labels=labels[rows], row=rows, track=track[rows])
    (root / "allAnnotations.csv").write_bytes((official / "allAnnotations.csv").read_bytes())
    return root


def test_boxes_are_cut_out_of_the_frames(official: Path) -> None:
    dataset = load(f"lisa:{official}", size=24)
    assert dataset.name == "lisa47" and dataset.labels == CLASSES_47
    parts = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, parts)) == len(annotations())
    images = np.concatenate([part.images for part in parts])
    left, top, right, bottom = annotations()[0][2]
    first = Image.fromarray(frame(0)[top:bottom, left:right]).resize((24, 24), Image.Resampling.BILINEAR)
    assert (images == np.asarray(first)).all(axis=(1, 2, 3)).sum() == 1
    tracks = [set(part.tracks.tolist()) for part in parts]
    assert not tracks[0] & tracks[1] and not tracks[0] & tracks[2] and not tracks[1] & tracks[2]


def test_all_layouts_give_the_same_data_set(official: Path, tmp_path: Path) -> None:
    crops = to_crops(official, tmp_path / "crops")
    layouts = (
        official,
        official / "allAnnotations.csv",
        crops,
        to_zip(crops, tmp_path / "crops.zip"),
        to_arrays(official, tmp_path / "arrays"),
    )
    for options in ("", "?classes=14"):
        for split in ("track", "paper"):
            digests = {load(f"lisa:{layout}{options}", size=16, split=split).digest for layout in layouts}
            assert len(digests) == 1, (options, split)


def test_fourteen_classes_merge_speed_limits_but_leave_35_out(official: Path) -> None:
    dataset = load(f"lisa:{official}?classes=14", size=16)
    assert dataset.name == "lisa14" and dataset.labels == CLASSES_14
    labels = np.concatenate([part.labels for part in (dataset.train, dataset.validation, dataset.test)])
    assert np.bincount(labels, minlength=14)[[0, 1, 9]].tolist() == [10, 10, 10]
    assert len(labels) == 30


def test_the_papers_split_takes_the_first_rows_of_each_class(official: Path) -> None:
    dataset = load(f"lisa:{official}", size=16, split="paper")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (36, 0, 4)
    assert first_rows([0, 1, 0, None, *[0] * 12, *[1] * 5]).nonzero()[0].tolist() == [0, 2]


def test_the_papers_split_needs_the_official_table(official: Path, tmp_path: Path) -> None:
    crops = to_crops(official, tmp_path / "set" / "crops")
    (crops / "allAnnotations.csv").unlink()
    assert len(load(f"lisa:{crops}", size=16).train) > 0
    with pytest.raises(DataError, match=r"counts rows of allAnnotations\.csv; put that file into"):
        load(f"lisa:{crops}", size=16, split="paper")
    (crops / "allAnnotations.csv").write_text("\n".join((official / "allAnnotations.csv").read_text().split("\n")[:9]))
    with pytest.raises(DataError, match=r"has 8 rows, but .* refers to row 39"):
        load(f"lisa:{crops}", size=16, split="paper")


def edit_line(old: str, new: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        text = (root / "allAnnotations.csv").read_text()
        assert old in text
        (root / "allAnnotations.csv").write_text(text.replace(old, new, 1))

    return harm


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing frame": (
        lambda root: (root / annotations()[3][0]).unlink(),
        "line 5: names a file that does not exist",
    ),
    "unknown class": (edit_line(";stop;", ";stopp;"), "line 2: 'stopp' in column 'Annotation tag' is not one of"),
    "empty box": (edit_line(";5;7;25;31;", ";25;7;25;31;"), "line 2: box 25,7,25,31 is empty or negative"),
    "negative box": (edit_line(";5;7;25;31;", ";-5;7;25;31;"), "line 2: box -5,7,25,31 is empty or negative"),
    "box beyond the frame": (
        edit_line(";5;7;25;31;", ";5;7;81;31;"),
        "line 2: box 5,7,81,31 leaves the frame of 80x60",
    ),
    "box of words": (
        edit_line(";5;7;25;31;", ";five;7;25;31;"),
        "'five' in column 'Upper left corner X' is not a whole",
    ),
    "frame elsewhere": (edit_line("vid0/frames/stop_0", "../vid0/frames/stop_0"), "leads out of the data set"),
    "column missing": (edit_line("Annotation tag", "Tag"), "has no column 'Annotation tag'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_one_clear_line(case: str, official: Path) -> None:
    harm, message = BROKEN[case]
    harm(official)
    with pytest.raises(DataError) as caught:
        load(f"lisa:{official}", size=16)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_frame_is_damage(official: Path) -> None:
    path = official / annotations()[0][0]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"1 of 40 images .* cannot be read"):
        load(f"lisa:{official}")


def test_a_crop_listed_twice_is_named(official: Path, tmp_path: Path) -> None:
    crops = to_crops(official, tmp_path / "crops")
    index = crops / "index.csv"
    index.write_text(index.read_text() + index.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match=r"index\.csv, line 42: row 39 is negative or was listed before"):
        load(f"lisa:{crops}")


def test_a_damaged_zip_is_named(official: Path, tmp_path: Path) -> None:
    path = to_zip(to_crops(official, tmp_path / "crops"), tmp_path / "crops.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"crops\.zip is not a readable zip file"):
        load(f"lisa:{path}")
    changed = bytearray(whole)
    changed[whole.index(b"IDAT") + 20] ^= 0xFF  # inside the first image: its checksum no longer fits
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"1 of 40 images .* first: .*crops\.zip/speedLimit35/00010\.png: "):
        load(f"lisa:{path}")


def test_wrong_options_and_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown number of LISA classes '15'; "):
        load(f"lisa:{tmp_path}?classes=15")
    with pytest.raises(DataError, match="nowhere does not exist"):
        load(f"lisa:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is empty"):
        load(f"lisa:{tmp_path}")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"it holds none of index\.csv, train\.npz, allAnnotations\.csv"):
        load(f"lisa:{tmp_path}")


def test_real_class_names_and_order(shared_data: Path) -> None:
    described = json.loads((shared_data / "lisa" / "classes.json").read_text())
    assert list(CLASSES_47) == described["classes47"]
    assert list(CLASSES_14) == described["classes14_VehicleSec"]


def test_real_relabelling_and_split_are_the_studys(shared_data: Path) -> None:
    files = [np.load(shared_data / "lisa" / f"{part}.npz") for part in ("train", "test")]
    joined = {name: np.concatenate([file[name] for file in files]) for name in ("labels", "labels14", "split14")}
    mapping = LABELLINGS["14"][1]
    mapped = np.asarray([mapping.get(tag, -1) for tag in CLASSES_47])[joined["labels"]]
    np.testing.assert_array_equal(mapped, joined["labels14"])
    dataset = load(f"lisa:{shared_data / 'lisa'}?classes=14", split="paper")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4875, 0, 798)
    for part, flag in ((dataset.train, 0), (dataset.test, 1)):
        expected = np.bincount(joined["labels14"][joined["split14"] == flag], minlength=14)
        np.testing.assert_array_equal(np.bincount(part.labels, minlength=14), expected)
    whole = load(f"lisa:{shared_data / 'lisa'}", split="paper")
    assert (len(whole.train), len(whole.test)) == (6621, 1103)


def test_real_track_split_is_disjoint(shared_data: Path) -> None:
    dataset = load(f"lisa:{shared_data / 'lisa'}?classes=14")
    parts = (dataset.train, dataset.validation, dataset.test)
    tracks = [set(part.tracks.tolist()) for part in parts]
    assert not tracks[0] & tracks[1] and not tracks[0] & tracks[2] and not tracks[1] & tracks[2]
    assert all(set(part.labels.tolist()) == set(range(14)) for part in parts)
    assert 0.15 < len(dataset.test) / sum(map(len, parts)) < 0.27


def test_real_native_crops_from_the_zip(shared_data: Path) -> None:
    dataset = load(f"lisa:{shared_data / 'lisa' / 'crops_native.zip'}?classes=14", split="paper")
    assert dataset.skipped == ()
    assert (len(dataset.train), len(dataset.test)) == (4288, 798)
    packed = load(f"lisa:{shared_data / 'lisa'}?classes=14", split="paper")
    # Versions of Pillow round some bilinear pixels to the other side.
    np.testing.assert_allclose(dataset.test.images.astype(int), packed.test.images, rtol=0, atol=1)
    np.testing.assert_array_equal(dataset.test.labels, packed.test.labels)
