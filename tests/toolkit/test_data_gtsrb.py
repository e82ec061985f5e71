"""``gtsrb:PATH``: the official layout, Kaggle's, and arrays, made here and real."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import DataError
from edge_runtime.preprocess import load_image, resize
from toolkit.data import MEAN, STD, load
from toolkit.data.gtsrb import LABELS

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"
TRACKS = 4


def write_ppm(path: Path, pixels: np.ndarray, line_end: bytes = b"\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = pixels.shape
    path.write_bytes(line_end.join((b"P6", b"%d %d" % (width, height), b"255", pixels.tobytes())))


def picture(seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 11, 3), np.uint8)
    pixels[0, 0, 0] = 10  # the value of a line feed: nothing may mistake it for the end of the header
    return pixels


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Two classes of four tracks of two frames, every second header with CRLF, and three test images."""
    root = tmp_path / "GTSRB"
    for label in (0, 14):
        folder = root / "Final_Training" / "Images" / f"{label:05}"
        rows = []
        for number in range(2 * TRACKS):
            name = f"{number // 2:05}_{number % 2:05}.ppm"
            write_ppm(folder / name, picture(100 * label + number), b"\r\n" if number % 2 else b"\n")
            rows.append(f"{name};11;14;1;1;9;12;{label}\r\n")
        (folder / f"GT-{label:05}.csv").write_text(HEADER + "".join(rows), newline="")
    for number, label in enumerate((14, 0, 14)):
        write_ppm(root / "Final_Test" / "Images" / f"{number:05}.ppm", picture(5000 + number))
        with (root / "Final_Test" / "GT-final_test.csv").open("a", newline="") as table:
            table.write((HEADER if number == 0 else "") + f"{number:05}.ppm;11;14;1;1;9;12;{label}\r\n")
    return root


def table_of(root: Path, label: int) -> Path:
    return root / "Final_Training" / "Images" / f"{label:05}" / f"GT-{label:05}.csv"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_official_layout(official: Path) -> None:
    dataset = load(f"gtsrb:{official}", size=14)
    assert dataset.name == "gtsrb" and dataset.labels == LABELS and len(LABELS) == 43
    assert (dataset.mean, dataset.std) == (MEAN, STD)
    assert dataset.test.labels.tolist() == [14, 0, 14]
    assert len(dataset.train) == 12 and len(dataset.validation) == 4
    assert not set(dataset.train.tracks.tolist()) & set(dataset.validation.tracks.tolist())
    assert load(f"gtsrb:{official.parent}", size=14).digest == dataset.digest  # the folder above works as well


def test_both_kinds_of_line_ends_in_ppm_headers_give_the_same_pixels(official: Path) -> None:
    for number in range(2 * TRACKS):
        name = f"{number // 2:05}_{number % 2:05}.ppm"
        path = official / "Final_Training" / "Images" / "00000" / name
        assert path.read_bytes().startswith(b"P6\r\n" if number % 2 else b"P6\n")
        np.testing.assert_array_equal(load_image(path), picture(number))


def test_kaggle_layout_and_arrays_give_the_same_data_set(official: Path, tmp_path: Path) -> None:
    expected = load(f"gtsrb:{official}", size=14)
    kaggle = to_kaggle(official, tmp_path / "kaggle")
    assert load(f"gtsrb:{kaggle}", size=14).digest == expected.digest
    arrays = to_arrays(official, tmp_path / "arrays")
    assert load(f"gtsrb:{arrays}", size=14).digest == expected.digest


def training_files(official: Path) -> list[Path]:
    return sorted((official / "Final_Training" / "Images").glob("*/*.ppm"))


def to_kaggle(official: Path, root: Path) -> Path:
    lines = {"Train": ["Width,Height,ClassId,Path"], "Test": ["Width,Height,ClassId,Path"]}
    for path in reversed(training_files(official)):
        label = int(path.parent.name)
        name = f"Train/{label}/{path.parent.name}_{path.stem}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(load_image(path)).save(root / name)
        lines["Train"].append(f"11,14,{label},/code/{name}")
    for number, label in enumerate((14, 0, 14)):
        (root / "Test").mkdir(exist_ok=True)
        image = load_image(official / "Final_Test" / "Images" / f"{number:05}.ppm")
        Image.fromarray(image).save(root / "Test" / f"{number:05}.png")
        lines["Test"].append(f"11,14,{label},Test/{number:05}.png")
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("\n".join(rows))
    return root


def to_arrays(official: Path, root: Path) -> Path:
    root.mkdir()
    files = training_files(official)[::-1]
    parts = {
        "train": (files, [int(path.parent.name) for path in files], [f"{p.parent.name}/{p.name}" for p in files]),
        "test_sample": (
            sorted((official / "Final_Test" / "Images").glob("*.ppm")),
            [14, 0, 14],
            [f"{number:05}.ppm" for number in range(3)],
        ),
    }
    for part, (paths, labels, names) in parts.items():
        images = np.stack([resize(load_image(path), 14, 14) for path in paths])
        np.savez(root / f"{part}.npz", images=images, labels=labels, official_name=names)
    return root


def test_the_papers_split_is_a_random_fifth_of_the_training_folder(official: Path) -> None:
    dataset = load(f"gtsrb:{official}", size=14, split="paper")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (13, 0, 3)
    assert load(f"gtsrb:{official}", size=14, split="paper", seed=1).digest != dataset.digest


def test_without_official_test_images_tracks_are_held_out(official: Path) -> None:
    shutil.rmtree(official / "Final_Test")
    dataset = load(f"gtsrb:{official}", size=14)
    groups = [set(part.tracks.tolist()) for part in (dataset.train, dataset.validation, dataset.test)]
    assert [len(group) for group in groups] == [4, 2, 2]
    assert not groups[0] & groups[2] and not groups[1] & groups[2]


def remove_class_images(root: Path) -> None:
    table_of(root, 0).write_text(HEADER)


def add_foreign_folder(root: Path) -> None:
    (root / "Final_Training" / "Images" / "00043").mkdir()


BROKEN = {
    "missing file": (
        lambda root: edit(table_of(root, 14), "00001_00000.ppm", "00099_00000.ppm"),
        "GT-00014.csv, line 4: names a file that does not exist",
    ),
    "path out of the folder": (
        lambda root: edit(table_of(root, 14), "00001_00000.ppm", "../00000/00001_00000.ppm"),
        "line 4: '../00000/00001_00000.ppm' in column 'Filename' leads out of the data set",
    ),
    "label out of range": (
        lambda root: edit(table_of(root, 14), "9;12;14", "9;12;43"),
        "GT-00014.csv, line 2: label 43 is outside 0 .. 42",
    ),
    "label that is no number": (
        lambda root: edit(table_of(root, 14), "9;12;14", "9;12;x"),
        "line 2: 'x' in column 'ClassId' is not a whole number",
    ),
    "row cut short": (
        lambda root: edit(table_of(root, 14), "00000_00000.ppm;11;14;1;1;9;12;14", "00000_00000.ppm;11"),
        "line 2: nothing in column 'ClassId'",
    ),
    "label of another class": (
        lambda root: edit(table_of(root, 14), "9;12;14", "9;12;0"),
        "lists an image of another class than 14",
    ),
    "missing table": (lambda root: table_of(root, 0).unlink(), "GT-00000.csv does not exist"),
    "another separator": (
        lambda root: table_of(root, 0).write_text(table_of(root, 0).read_text().replace(";", ",")),
        "has no column 'Filename' (separated by ';')",
    ),
    "class without images": (remove_class_images, "Images/00000 holds no images"),
    "foreign folder": (add_foreign_folder, "00043 is no GTSRB class folder (00000 .. 00042)"),
    "test images without labels": (
        lambda root: (root / "Final_Test" / "GT-final_test.csv").unlink(),
        "has no labels; put GT-final_test.csv",
    ),
    "binary table": (lambda root: table_of(root, 0).write_bytes(b"\xff\xfe\x00"), "is not a readable CSV file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_official_layout_is_one_clear_line(case: str, official: Path) -> None:
    harm, message = BROKEN[case]
    harm(official)
    with pytest.raises(DataError) as caught:
        load(f"gtsrb:{official}", size=14)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_kaggle_layout_is_one_clear_line(official: Path, tmp_path: Path) -> None:
    root = to_kaggle(official, tmp_path / "kaggle")
    edit(root / "Train.csv", "00003_00001.png", "00003_00009.png")
    with pytest.raises(DataError, match=r"Train\.csv, line 2: names a file that does not exist"):
        load(f"gtsrb:{root}")
    edit(root / "Train.csv", "/code/Train/", "/elsewhere/")
    with pytest.raises(DataError, match="leads out of the data set"):
        load(f"gtsrb:{root}")
    (root / "Train.csv").write_text("Width,Height,ClassId,Path\n")
    with pytest.raises(DataError, match="lists no images"):
        load(f"gtsrb:{root}")


def test_truncated_ppm_files_are_damage(official: Path) -> None:
    path = training_files(official)[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"1 of 19 images .* first: .*00000_00000\.ppm"):
        load(f"gtsrb:{official}")


def test_what_is_no_gtsrb_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        load(f"gtsrb:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="is empty"):
        load(f"gtsrb:{tmp_path}")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match="is no GTSRB folder: it holds none of Final_Training/Images, "):
        load(f"gtsrb:{tmp_path}")
    np.savez(tmp_path / "train.npz", images=np.zeros((1, 8, 8, 3), np.uint8), labels=[0], official_name=["stop.ppm"])
    with pytest.raises(DataError, match=r"'stop\.ppm' is not an official GTSRB file name"):
        load(f"gtsrb:{tmp_path}")


def test_real_official_and_kaggle_samples_are_the_same(shared_data: Path) -> None:
    official = shared_data / "gtsrb" / "official_layout_sample"
    headers = [path.read_bytes()[:4] for path in (official / "GTSRB" / "Final_Training" / "Images").glob("*/*.ppm")]
    assert sum(header == b"P6\r\n" for header in headers) == 45 and len(headers) == 430
    dataset = load(f"gtsrb:{official}")
    assert dataset.skipped == ()
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (430, 86)
    assert load(f"gtsrb:{shared_data / 'gtsrb' / 'kaggle_layout_sample'}").digest == dataset.digest


def test_the_real_arrays_hold_the_samples_images(shared_data: Path) -> None:
    """The 2,000 packed test images contain some of the official sample's; where both have one, pixels agree."""
    packed = np.load(shared_data / "gtsrb" / "test_sample.npz")
    position = {name: index for index, name in enumerate(packed["official_name"].tolist())}
    folder = shared_data / "gtsrb" / "official_layout_sample" / "GTSRB" / "Final_Test" / "Images"
    shared = [path for path in sorted(folder.glob("*.ppm")) if path.name in position]
    assert shared
    images = packed["images"]
    for path in shared:
        resized = Image.fromarray(load_image(path)).resize((32, 32), Image.Resampling.BILINEAR)
        # Versions of Pillow round some bilinear pixels to the other side.
        np.testing.assert_allclose(np.asarray(resized).astype(int), images[position[path.name]], rtol=0, atol=1)
