"""Does the vehicle loop notice drift on real signs? They turn dark, blurred and foreign, and are themselves again.

    python -m benchmarks.drift [FOLDER]

FOLDER holds GTSRB's ``test_sample.npz`` and, beside it, ``lisa/test.npz`` for the foreign signs; without it, they are
looked for as by ``benchmarks.gtsrb``. A small network is trained on 1,000 of the images for a minute or two, exported
with its baselines, and the loop replays the others, every image explained.
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
TRAINING, PHASE, AUDIT_IMAGES = 1000, 200, 200
ARCHITECTURE, WIDTH, EPOCHS = "vgg_small", 0.5, 12
# Every image explained, and every fourth measured by ROAD: phases stay short.
SCHEDULE = ScheduleOptions(methods=("vg",), every=1, road_images=10, road_window=40)


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
    """Images [N, 32, 32, 3] and labels [N] of GTSRB, and foreign images."""

    images: Images
    labels: NDArray[np.int64]
    foreign: Images


def read_signs(folder: Path) -> Signs:
    """Read ``test_sample.npz`` of GTSRB and LISA's ``test.npz``, shuffled by a fixed seed."""
    with np.load(folder / "test_sample.npz") as file:
        order = np.random.default_rng(0).permutation(len(file["images"]))
        images, labels = file["images"][order], file["labels"][order]
    with np.load(folder.parent / "lisa" / "test.npz") as file:
        foreign = file["images"][np.random.default_rng(1).permutation(len(file["images"]))]
    return Signs(images, labels.astype(np.int64), foreign)


def make_bundle(signs: Signs, folder: Path) -> Bundle:
    """Train on the first images, export with an audit set of the next ones, as `roadworthy export` does."""
    names = np.array([f"class {number}" for number in range(int(signs.labels.max()) + 1)])
    parts = {"train": slice(0, TRAINING), "test": slice(TRAINING, TRAINING + 2 * AUDIT_IMAGES)}
    data = folder / "data"
    data.mkdir()
    for name, part in parts.items():
        np.savez(data / f"{name}.npz", images=signs.images[part], labels=signs.labels[part], names=names)
    dataset = load(f"npz:{data}")
    config = replace(
        recipes.preset("fast", architecture=ARCHITECTURE, dataset=dataset.name), epochs=EPOCHS, device="cpu"
    )
    pipeline.train(dataset, folder / "run", ARCHITECTURE, config, width=WIDTH)
    return open_bundle(pipeline.export(folder / "run", folder / "bundle", pipeline.Audited(dataset, AUDIT_IMAGES)))


def drive(bundle: Bundle, signs: Signs, folder: Path) -> list[dict[str, Any]]:
    """Replay the phases from files; return one row per phase: events, state and means of every measure at its end."""
    rest = signs.images[TRAINING + 2 * AUDIT_IMAGES :]
    generator = np.random.default_rng(2)
    frames = folder / "frames"
    frames.mkdir()
    for number, (name, change) in enumerate(PHASES.items()):
        drawn = rest[generator.permutation(len(rest))[:PHASE]]
        for index, image in enumerate(change(drawn, signs.foreign[:PHASE])):
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
    if not (folder / "test_sample.npz").is_file() or not (folder.parent / "lisa" / "test.npz").is_file():
        print(f"skipped: no GTSRB in {folder} with LISA beside it")
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
