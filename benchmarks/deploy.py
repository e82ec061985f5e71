"""What trust costs on the vehicle: `python -m benchmarks.deploy`.

- verification of a signed 60 MB bundle, root installed: under 0.5 s and 60 MB of extra memory;
- activation with self-test, from the folder on a stick to the switched link: under 10 s;
- cold start of VGG-16 at 32 x 32, from starting the process to the first class, signatures included: under 2 s.

Every sample is a process of its own with the files in the page cache, as after a copy; a vehicle that has just
booted adds the time of reading them from its disk. Nothing is clipped: medians and largest values of all samples.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from edge_runtime.manifest import InputSpec
from edge_runtime.trust import TrustStore
from edge_runtime.trust.store import VARIABLE

CLASSES = 43
SIZE = 32
# A VGG-16 whose classifier and explainer are 60 MB together, and the full one.
WIDTHS = {"vgg16 of width 0.7": 0.7, "vgg16": 1.0}
VERIFIED, WHOLE = WIDTHS
BARS = {"verify_seconds": 0.5, "verify_extra_mb": 60.0, "activate_seconds": 10.0, "cold_start_seconds": 2.0}
SAMPLES = {"verify": 20, "activate": 5, "cold start": 20}
PASSPHRASE = "benchmark passphrase"

VERIFY = """
import json, sys, time
from edge_runtime.cold_start import memory
from edge_runtime.trust import open_required
before, begin = memory(), time.perf_counter()
open_required(sys.argv[1])
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "extra_mb": (memory()["peak"] - before["steady"]) * 1.048576}))
"""


def make_bundle(folder: Path, width: float, keys: Path) -> Path:
    """Return a signed bundle of an untrained VGG-16."""
    from export.bundle import Contents, write_bundle
    from export.signing import sign_bundle
    from export.to_onnx import to_onnx
    from toolkit import models

    model = models.build("vgg16", CLASSES, input_size=SIZE, width=width, seed=0)
    contents = Contents(
        name=folder.name,
        input=InputSpec(height=SIZE, width=SIZE, mean=(0.4563, 0.4076, 0.3895), std=(0.2298, 0.2144, 0.2259)),
        labels=tuple(f"class {index}" for index in range(CLASSES)),
        golden_images=np.random.default_rng(0).standard_normal((8, 3, SIZE, SIZE)).astype(np.float32),
    )
    write_bundle(folder, to_onnx(model, input_size=(SIZE, SIZE)), contents)
    sign_bundle(folder, keys, PASSPHRASE)
    return folder


def verification(bundle: Path, samples: int) -> Iterator[dict[str, float]]:
    """Yield seconds and extra megabytes of each verification in a fresh process."""
    for _ in range(samples):
        yield json.loads(run("-c", VERIFY, str(bundle)))


def activation(bundle: Path, places: Path, samples: int) -> Iterator[float]:
    """Yield the seconds of ``roadworthy install`` into an empty place, the process's start included."""
    for number in range(samples):
        begin = time.monotonic()
        run("-c", "from toolkit.cli import main; main()", "install", str(bundle), "--to", str(places / str(number)))
        yield time.monotonic() - begin


def cold_starts(bundle: Path, samples: int) -> Iterator[dict[str, float]]:
    """Yield the laps in milliseconds from the process's start to the first class."""
    for _ in range(samples):
        request = {
            "bundle": str(bundle),
            "provider": "cpu",
            "precision": "fp32",
            "threads": None,
            "batch": 1,
            "explain": False,
            "spawned": time.monotonic(),
        }
        yield json.loads(run("-m", "edge_runtime.cold_start", json.dumps(request)))["laps"]


def run(*arguments: str) -> str:
    """Run Python and return what it printed."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def row(measure: str, what: str, samples: list[float], bar: float, digits: int = 3) -> dict[str, Any]:
    """Return one line of the result and print it."""
    found = {
        "measure": measure,
        "what": what,
        "median": round(statistics.median(samples), digits),
        "largest": round(max(samples), digits),
        "samples": len(samples),
        "bar": bar,
        "within_bar": max(samples) < bar,
    }
    print(json.dumps(found))
    return found


def measure(folder: Path, samples: dict[str, int]) -> list[dict[str, Any]]:
    """Make bundles, keys and trust in ``folder`` and return the rows."""
    from export.signing import Plan, create_keys

    root = create_keys(folder / "keys", PASSPHRASE, Plan(root_keys=3, root_threshold=2))
    TrustStore(folder / "trust").install([root])
    os.environ[VARIABLE] = str(folder / "trust")
    bundles = {
        name: make_bundle(folder / f"bundle{number}", width, folder / "keys")
        for number, (name, width) in enumerate(WIDTHS.items())
    }
    sizes = {
        name: sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) for name, path in bundles.items()
    }
    shown = {name: f"{name}, {size / 1e6:.0f} MB" for name, size in sizes.items()}

    checked = list(verification(bundles[VERIFIED], samples["verify"]))
    rows = [
        row("verify_seconds", shown[VERIFIED], [each["seconds"] for each in checked], BARS["verify_seconds"]),
        row("verify_extra_mb", shown[VERIFIED], [each["extra_mb"] for each in checked], BARS["verify_extra_mb"], 1),
    ]
    laps = list(cold_starts(bundles[WHOLE], samples["cold start"]))
    totals = [sum(each.values()) / 1e3 for each in laps]
    rows.append(row("cold_start_seconds", shown[WHOLE], totals, BARS["cold_start_seconds"]))
    rows[-1]["laps_ms"] = {name: round(statistics.median(each[name] for each in laps), 1) for name in laps[0]}
    activated = list(activation(bundles[WHOLE], folder / "places", samples["activate"]))
    rows.append(row("activate_seconds", shown[WHOLE], activated, BARS["activate_seconds"]))
    return rows


def main(arguments: list[str]) -> None:
    """Measure and record; ``--smoke`` takes two samples of each and records nothing."""
    load = round(os.getloadavg()[0], 2)
    smoke = "--smoke" in arguments
    folder = Path(tempfile.mkdtemp(prefix="roadworthy-deploy-"))
    try:
        rows = measure(folder, dict.fromkeys(SAMPLES, 2) if smoke else SAMPLES)
    finally:
        shutil.rmtree(folder)
    if not smoke:
        print(record("deploy", rows, load_before=load))


if __name__ == "__main__":
    main(sys.argv[1:])
