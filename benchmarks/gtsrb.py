"""Train the small VGG on GTSRB with the preset ``fast`` and measure it on official test images, once.

The recipe was chosen on validation images alone (a track-disjoint tenth of the training images); this script only
reports what it reaches.

    python -m benchmarks.gtsrb [FOLDER]

FOLDER holds ``train.npz`` and ``test_sample.npz``, or any layout that the data set ``gtsrb`` reads; without it, GTSRB
is looked for in ``$ROADWORTHY_DATA/gtsrb`` and ``../shared/data/gtsrb``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.common import record
from edge_runtime.variant import Variant
from toolkit import evaluation, recipes, training
from toolkit.data import load
from toolkit.training import Progress

ARCHITECTURE = "vgg_small"
PRESET = "fast"


def default_folder() -> Path:
    root = os.environ.get("ROADWORTHY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(root) / "gtsrb"


def report(progress: Progress) -> None:
    if progress.step == progress.steps:
        print(f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:.3f}", flush=True)


def main(folder: Path) -> None:
    if not folder.is_dir():
        print(f"skipped: no GTSRB in {folder}")
        return
    started = time.perf_counter()
    cpu_started = time.process_time()
    dataset = load(f"gtsrb:{folder}")
    loaded = time.perf_counter()
    config = replace(recipes.preset(PRESET, architecture=ARCHITECTURE, dataset=dataset.name), device="cpu")
    variant = Variant(dataset=dataset.name, architecture=ARCHITECTURE)
    with tempfile.TemporaryDirectory() as temporary:
        trained = training.train(dataset, Path(temporary) / "run", config, variant, progress=report)
    finished = time.perf_counter()
    counts = evaluation.count(trained.model)
    row = {
        "architecture": ARCHITECTURE,
        "preset": PRESET,
        "config": asdict(config),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "validation_accuracy": trained.history[-1]["validation_accuracy"],
        "test_images": len(dataset.test),
        "test_accuracy": evaluation.accuracy(trained.model, dataset.test, trained.info.input),
        "load_seconds": round(loaded - started, 1),
        "train_seconds": round(finished - loaded, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "history": trained.history,
    }
    context = {
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[1], 1),
        "split": "validation: tracks of the training images that training does not see; test: official test images",
        "digest": dataset.digest,
    }
    print(record("gtsrb", [row], **context))
    print(f"{row['test_accuracy']:.2%} of {row['test_images']} test images after {row['train_seconds']} s of training")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
