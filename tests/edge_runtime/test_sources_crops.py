"""From frame to classifier: bit for bit what training's evaluation sees."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from edge_runtime.manifest import InputSpec
from edge_runtime.sources import Box, Frame, open_source
from edge_runtime.sources.crops import classifier_input, crop_images
from tests.edge_runtime.source_tools import picture, read_all
from toolkit.data.dataset import MEAN, STD
from toolkit.data.gtsrb import read_gtsrb
from toolkit.data.lisa import BOX, TABLE, read_lisa
from toolkit.data.reading import Request
from toolkit.evaluation import predict

SPEC = InputSpec(height=32, width=32, mean=MEAN, std=STD)
OFFICIAL = Path("gtsrb", "official_layout_sample", "GTSRB")


class Mirror(nn.Module):
    """A network whose logits are its input: evaluation shows what it feeds."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def evaluated(shared_data: Path) -> NDArray[np.float32]:
    """Return what training's evaluation feeds for the official test images, in the order of their names."""
    test = read_gtsrb(Request(shared_data / OFFICIAL, 32, {})).test
    assert test is not None and len(test) >= 50
    return predict(Mirror(), test.images, SPEC).reshape(-1, 3, 32, 32)


def test_whole_frames_are_bit_identical_to_evaluation(shared_data: Path) -> None:
    expected = evaluated(shared_data)
    frames = read_all(open_source(str(shared_data / OFFICIAL / "Final_Test" / "Images")))
    found = np.concatenate([classifier_input(frame, SPEC) for frame in frames])
    assert found.tobytes() == expected.tobytes()


def test_boxes_in_a_large_frame_are_bit_identical_to_evaluation(shared_data: Path, tmp_path: Path) -> None:
    expected = evaluated(shared_data)
    rows, where = ["frame,x0,y0,x1,y1"], 0
    road = picture(0, 300, 9000)
    for frame in read_all(open_source(str(shared_data / OFFICIAL / "Final_Test" / "Images"))):
        height, width = frame.image.shape[:2]
        top = len(rows) % 20
        road[top : top + height, where : where + width] = frame.image
        rows.append(f"road.png,{where},{top},{where + width},{top + height}")
        where += width + 3
    (tmp_path / "images").mkdir()
    Image.fromarray(road).save(tmp_path / "images" / "road.png")
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    (frame,) = read_all(open_source(str(tmp_path / "images"), boxes=str(tmp_path / "boxes.csv")))
    assert classifier_input(frame, SPEC).tobytes() == expected.tobytes()


def test_annotated_boxes_are_bit_identical_to_training(shared_data: Path, tmp_path: Path) -> None:
    """The regions of real signs, once as training's annotations and once as the vehicle's boxes."""
    folder = shared_data / OFFICIAL / "Final_Test"
    table = next(
        path for path in (folder / "GT-final_test.csv", folder / "Images" / "GT-final_test.csv") if path.exists()
    )
    corners = ("Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")
    annotations = [";".join(("Filename", "Annotation tag", *BOX))]
    boxes = ["frame,x0,y0,x1,y1"]
    (tmp_path / "drive").mkdir()
    with table.open(newline="") as file:
        for number, row in enumerate(sorted(csv.DictReader(file, delimiter=";"), key=lambda row: row["Filename"])):
            name, box = f"stop_{number:03}.avi_image0.png", [row[corner] for corner in corners]
            shutil.copy(folder / "Images" / row["Filename"], tmp_path / "drive" / name)
            annotations.append(";".join((f"drive/{name}", "stop", *box)))
            boxes.append(",".join((name, *box)))
    (tmp_path / TABLE).write_text("\n".join(annotations))
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    train = read_lisa(Request(tmp_path, 32, {})).train
    expected = predict(Mirror(), train.images, SPEC)
    frames = read_all(open_source(str(tmp_path / "drive"), boxes=str(tmp_path / "boxes.csv")))
    found = np.concatenate([classifier_input(frame, SPEC) for frame in frames])
    assert len(frames) == len(expected) >= 50
    assert found.tobytes() == expected.tobytes()


def test_without_boxes_the_whole_frame() -> None:
    frame = Frame("a", picture(1))
    assert crop_images(frame, SPEC).shape == (1, 32, 32, 3)
    np.testing.assert_array_equal(
        crop_images(frame, SPEC), crop_images(Frame("a", picture(1), boxes=(Box(0, 0, 32, 24),)), SPEC)
    )


def test_one_image_per_box_in_order() -> None:
    image = picture(2, 64, 64)
    boxes = (Box(0, 0, 32, 32), Box(32, 32, 64, 64), Box(5, 6, 6, 7))
    found = crop_images(Frame("a", image, boxes=boxes), SPEC)
    np.testing.assert_array_equal(found[0], image[:32, :32])
    np.testing.assert_array_equal(found[1], image[32:, 32:])
    assert (found[2] == image[6, 5]).all()
    assert classifier_input(Frame("a", image, boxes=boxes), SPEC).shape == (3, 3, 32, 32)
