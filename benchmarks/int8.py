"""INT8 of trained networks against FP32: accuracy, explanations, speed, and what calibration costs.

    python -m benchmarks.int8 [--runs RUNS] [--only ARCHITECTURE] [GTSRB]

GTSRB is looked for as in ``benchmarks.gtsrb``. Runs are taken from the folder RUNS by architecture where they are
there, and trained there where not: at 32 x 32 on two cores about 6 minutes for ResNet-18 and half an hour for VGG-16
(``vgg16_bn``: the export folds the batch normalisation, so that the graph is VGG-16's). With trained runs everything
takes about ten minutes on a quiet machine. With ``--only`` nothing is recorded.

Each network is calibrated three times with 512 training images: with every layer in INT8 whatever the gate says, with
``--auto`` and the default gate, and once more in a fresh process without cache for time and memory. Speed is measured
in alternation, medians over rounds, on the onnxruntime that is installed and with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import alternate, milliseconds, ratio, record
from benchmarks.gtsrb import default_folder
from calibration.calibrate import Calibrated, Data, calibrate, find_ranges, read_network
from calibration.images import LabelledImages
from calibration.options import CalibrationOptions, DriftOptions
from calibration.quantise import quantise
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.cold_start import memory
from edge_runtime.manifest import FP32, Gate
from edge_runtime.workload import benchmark_images
from toolkit.data import Dataset, load

REPOSITORY = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("vgg16_bn", "resnet18")
PRESET, EPOCHS = "fast", 4
OPEN = Gate(max_accuracy_drop=1.0, min_rank_correlation=-1.0, max_road_auc_increase=1.0)
DRIFT = DriftOptions(images=200, methods=("vg",))
ROUNDS = 200


def train(dataset: Dataset, architecture: str, folder: Path) -> None:
    """Train a run, unless there is one."""
    if folder.exists():
        return
    from edge_runtime.variant import Variant
    from toolkit import recipes, training

    config = replace(recipes.preset(PRESET, architecture=architecture, dataset=dataset.name), epochs=EPOCHS)
    training.train(dataset, folder, config, Variant(dataset=dataset.name, architecture=architecture))


def export(dataset: Dataset, run: Path, out: Path) -> Bundle:
    """Make a bundle with an audit set, whose images serve as inputs when speed is measured."""
    from toolkit import pipeline

    return open_bundle(pipeline.export(run, out, pipeline.Audited(dataset, 100, False)))


def images(dataset: Dataset) -> Data:
    train_split, held_out = dataset.train, dataset.held_out()
    return Data(
        LabelledImages(train_split.images, train_split.labels, dataset.spec),
        LabelledImages(held_out.images, held_out.labels, dataset.spec),
    )


def measure(bundle: Bundle, data: Data, folder: Path) -> dict[str, Any]:
    """Calibrate with and without ``--auto`` and compare both with FP32."""
    found: dict[str, Any] = {}
    bundles = {}
    for name, gate, auto in (("all", OPEN, False), ("auto", Gate(), True)):
        start = time.perf_counter()
        options = CalibrationOptions(gate=gate, auto=auto, drift=DRIFT)
        made = calibrate(bundle, folder / name, data, options)
        bundles[name] = open_bundle(folder / name)
        found[name] = {**drift_row(made), "seconds": round(time.perf_counter() - start, 1)}
    return {**found, "speed": speed(bundle, bundles)}


def drift_row(made: Calibrated) -> dict[str, Any]:
    """Return what a calibration did to accuracy and to the vanilla gradient."""
    through, fp32 = made.drift.drifts
    low, high = through.road_interval
    return {
        "kept": list(made.precision.kept),
        "accuracy": made.drift.accuracy,
        "accuracy_drop_points": round(100 * (made.drift.accuracy[FP32] - made.drift.accuracy["int8"]), 3),
        "flipped": made.drift.flipped,
        "rank_correlation": round(through.rank_correlation, 4),
        "rank_correlation_of_fp32_gradient": round(fp32.rank_correlation, 4),
        "top_iou": round(through.top_iou, 4),
        "cosine": round(through.cosine, 4),
        "road_auc_change": round(through.road_auc_change, 4),
        "road_interval": [round(low, 4), round(high, 4)],
        "bytes": made.drift.size,
    }


def speed(plain: Bundle, others: dict[str, Bundle]) -> dict[str, Any]:
    """Return medians of one image in alternation, and how many times faster than FP32 each INT8 is."""
    image = benchmark_images(plain, 1)
    classifiers = {FP32: Classifier(plain), **{n: Classifier(b, precision="int8") for n, b in others.items()}}
    runs = {name: (lambda each=each: each.predict(image)) for name, each in classifiers.items()}
    samples = alternate(runs, warmup=20, repeats=ROUNDS, seconds=60)
    return {
        "milliseconds": {name: round(milliseconds(times), 3) for name, times in samples.items()},
        "times_faster": {name: round(ratio(samples, FP32, name), 2) for name in others},
        "load_average": round(os.getloadavg()[0], 2),
    }


def cost(bundle: Bundle, gtsrb: Path) -> dict[str, float]:
    """Return seconds and peak memory of a calibration in a fresh process; reading the data set is not timed."""
    command = [sys.executable, "-m", "benchmarks.int8", "--cost-of", str(bundle.path), str(gtsrb)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def calibrate_alone(path: Path, gtsrb: Path) -> None:
    """Calibrate and quantise without cache, and print what it took; runs in the fresh process of :func:`cost`."""
    bundle, dataset = open_bundle(path), load(f"gtsrb:{gtsrb}")
    split = dataset.train
    start = time.perf_counter()
    network, _ = read_network(bundle)
    sample = LabelledImages(split.images, split.labels, dataset.spec)
    ranges = find_ranges(bundle, network, sample, CalibrationOptions())
    quantise(network, ranges.thresholds())
    seconds = time.perf_counter() - start
    peak = memory().get("peak", float("nan"))
    print(json.dumps({"images": ranges.samples, "seconds": round(seconds, 1), "peak_mib": round(peak, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gtsrb", nargs="?", type=Path, default=default_folder())
    parser.add_argument("--runs", type=Path, help="folder of runs by architecture")
    parser.add_argument("--only", choices=ARCHITECTURES)
    parser.add_argument("--cost-of", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.gtsrb.is_dir():
        print(f"skipped: no GTSRB in {chosen.gtsrb}")
        return
    if chosen.cost_of is not None:
        calibrate_alone(chosen.cost_of, chosen.gtsrb)
        return
    dataset = load(f"gtsrb:{chosen.gtsrb}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        runs = chosen.runs or Path(temporary) / "runs"
        for architecture in [chosen.only] if chosen.only else ARCHITECTURES:
            folder = Path(temporary) / architecture
            train(dataset, architecture, runs / architecture)
            bundle = export(dataset, runs / architecture, folder / FP32)
            measured = measure(bundle, images(dataset), folder)
            row = {"architecture": architecture, "size": 32, **measured, "calibration": cost(bundle, chosen.gtsrb)}
            rows.append(row)
            print(json.dumps(row, indent=1), flush=True)
    if chosen.only is None:
        flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
        context = {"vnni": any("vnni" in flag for flag in flags), "explained_images": DRIFT.images}
        print(record("int8", rows, digest=dataset.digest, **context))


if __name__ == "__main__":
    main()
