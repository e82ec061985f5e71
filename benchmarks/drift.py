"""Does the vehicle loop notice drift on real signs? They turn dark, blurred and foreign, and are themselves again.

    python -m benchmarks.drift [FOLDER]

FOLDER holds GTSRB's ``train.npz`` and ``test_sample.npz`` and, beside it, ``lisa/test.npz`` for the foreign signs;
without it, they are looked for as by ``benchmarks.gtsrb``. A small network is trained for minutes on a tenth of the
training images, exported with its baselines on some of the test images, and the loop replays others, all explained.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.common import record
from benchmarks.gtsrb import default_folder
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.log import AuditLog, EventRecord, FrameRecord, read
from edge_runtime.log.frames import identity_of
from edge_runtime.loop import GROUP, EngineOptions, LoopOptions, ScheduleOptions, VehicleLoop
from edge_runtime.sources.folder import FolderSource
from toolkit import pipeline, recipes
from toolkit.data import load

Images = NDArray[np.uint8]
TRAINING, HELD_OUT, AUDIT_IMAGES, PHASE = 4000, 400, 200, 400
ARCHITECTURE, WIDTH, EPOCHS = "vgg_small", 0.5, 6
# Every image explained, and every second measured by ROAD: phases stay short.
SCHEDULE = ScheduleOptions(methods=("vg",), every=1, road_images=20, road_window=40)


def usual(images: Images, foreign: Images) -> Images:
    return images


def dark(images: Images, foreign: Images) -> Images:
    """A tenth of the light."""
    return images // 10


def blurred(images: Images, foreign: Images) -> Images:
    """Gaussian blur of 2.5 pixels on 32: out of focus."""
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2.5))) for image in images])


def other_signs(images: Images, foreign: Images) -> Images:
    """American signs for a network that knows German ones."""
    return foreign


PHASES: dict[str, Callable[[Images, Images], Images]] = {
    "usual": usual,
    "dark": dark,
    "usual again": usual,
    "blurred": blurred,
    "usual a third time": usual,
    "foreign": other_signs,
    "usual at last": usual,
}


@dataclass(frozen=True)
class Signs:
    """GTSRB's images [N, 32, 32, 3] and labels [N] to train on and to hold out; images to drive past; foreign ones."""

    train: tuple[Images, NDArray[np.int64]]
    held_out: tuple[Images, NDArray[np.int64]]
    passed: Images
    foreign: Images


def read_signs(folder: Path) -> Signs:
    """Read and shuffle the files, each by a fixed seed."""
    train, train_labels = shuffled(folder / "train.npz", seed=0)
    test, test_labels = shuffled(folder / "test_sample.npz", seed=1)
    return Signs(
        train=(train[:TRAINING], train_labels[:TRAINING]),
        held_out=(test[:HELD_OUT], test_labels[:HELD_OUT]),
        passed=test[HELD_OUT:],
        foreign=shuffled(folder.parent / "lisa" / "test.npz", seed=2)[0][:PHASE],
    )


def shuffled(path: Path, seed: int) -> tuple[Images, NDArray[np.int64]]:
    """Return the images and labels of a file in an order of the seed's."""
    with np.load(path) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.default_rng(seed).permutation(len(images))
    return images[order], labels[order].astype(np.int64)


def make_bundle(signs: Signs, folder: Path) -> Bundle:
    """Train, and export with an audit set of the images held out, as `roadworthy export` does."""
    names = np.array([f"class {number}" for number in range(int(signs.train[1].max()) + 1)])
    data = folder / "data"
    data.mkdir()
    for name, (images, labels) in {"train": signs.train, "test": signs.held_out}.items():
        np.savez(data / f"{name}.npz", images=images, labels=labels, names=names)
    dataset = load(f"npz:{data}")
    config = replace(
        recipes.preset("fast", architecture=ARCHITECTURE, dataset=dataset.name), epochs=EPOCHS, device="cpu"
    )
    pipeline.train(dataset, folder / "run", ARCHITECTURE, config, width=WIDTH)
    return open_bundle(pipeline.export(folder / "run", folder / "bundle", pipeline.Audited(dataset, AUDIT_IMAGES)))


def drive(bundle: Bundle, signs: Signs, folder: Path) -> list[dict[str, Any]]:
    """Replay the phases from files; return one row per phase: events, state and means of every measure at its end."""
    generator = np.random.default_rng(2)
    frames = folder / "frames"
    frames.mkdir()
    for number, (name, change) in enumerate(PHASES.items()):
        drawn = signs.passed[generator.permutation(len(signs.passed))[:PHASE]]
        for index, image in enumerate(change(drawn, signs.foreign)):
            Image.fromarray(image).save(frames / f"{number}-{name.replace(' ', '-')}-{index:04}.png")
    log = AuditLog(folder / "audit.db", identity_of(bundle, provider="cpu"), group=GROUP)
    options = LoopOptions(engine=EngineOptions(threads=1, timeout=60.0), schedule=SCHEDULE)
    summary = VehicleLoop(bundle, FolderSource(frames), options, log=log).run()
    assert summary.counts.processed == PHASE * len(PHASES), summary.counts
    return list(rows(folder / "audit.db"))


def rows(log: Path) -> list[dict[str, Any]]:
    """Return what the log says of every phase."""
    found: list[dict[str, Any]] = [{"phase": name, "events": [], "drifted": [], "means": {}} for name in PHASES]
    values: list[dict[str, list[float]]] = [{} for _ in PHASES]
    phase, drifted = 0, set[str]()
    for number, entry in enumerate(read(log)):
        item = entry.record
        if isinstance(item, FrameRecord):
            phase = int(item.frame_id.split("-")[0])
            measures = {"confidence": item.probability, "gini vg": item.explainers["vg"].gini}
            for window in item.road:
                measures[f"road vg {window.order}"] = window.auc
            for measure, value in measures.items():
                if value is not None:
                    values[phase].setdefault(measure, []).append(value)
        elif isinstance(item, EventRecord) and item.name in ("drift", "drift-over"):
            measure = str(item.data["measure"])
            drifted = drifted | {measure} if item.name == "drift" else drifted - {measure}
            found[phase]["events"].append({"name": item.name, "record": number, **msgspec.to_builtins(item.data)})
        found[phase]["drifted"] = sorted(drifted)
    for row, each in zip(found, values, strict=True):
        row["means"] = {measure: round(float(np.mean(some)), 4) for measure, some in sorted(each.items())}
    return found


def main(folder: Path) -> None:
    if not (folder / "train.npz").is_file() or not (folder.parent / "lisa" / "test.npz").is_file():
        print(f"skipped: no GTSRB as .npz in {folder} with LISA beside it")
        return
    torch.set_num_threads(1)
    signs = read_signs(folder)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = make_bundle(signs, Path(temporary))
        baselines = bundle.manifest.baselines
        result = drive(bundle, signs, Path(temporary))
    for row in result:
        print(row["phase"], row["means"], row["drifted"], [event["name"] for event in row["events"]], sep="\n   ")
    context = {
        "drift": msgspec.to_builtins(bundle.manifest.drift),
        "accuracy": baselines.accuracy,
        "images_per_phase": PHASE,
        "load_average": round(os.getloadavg()[1], 1),
    }
    print(record("drift", result, **context))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
