"""Weight of the device runtime: import, cold start, memory, and the size of an explainer's run.

    python -m benchmarks.runtime            everything; records benchmarks/results/runtime.json
    python -m benchmarks.runtime imports    one part (imports, memory, chunks), printed only

Imports and memory are those of fresh processes that never load PyTorch or onnx.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import record
from edge_runtime.benchmark import BenchmarkOptions, Subject, cold_start
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import FP32, InputSpec
from edge_runtime.sessions import default_chunk
from edge_runtime.workload import benchmark_images

CLASSES = 43
FRESH_PROCESSES = 7
REPOSITORY = Path(__file__).resolve().parents[1]
# What a program imports -> the statement; the bar of 0.25 s is for the first.
IMPORTS = {
    "edge_runtime": "import edge_runtime",
    "classifier and explainer": "from edge_runtime import open_bundle, Classifier, Explainer",
    "audit and ROAD": "from edge_runtime import audit_bundle",
}
WEIGHTY = ("numpy", "onnxruntime", "PIL", "scipy", "cv2", "torch", "onnx", "http.server")
MODELS = {"vgg16@32": ("vgg16", 32), "resnet18@32": ("resnet18", 32), "resnet18@224": ("resnet18", 224)}
CHUNKS = (1, 2, 4, 8, 16, 25, 51)
ROUNDS = 3
SMOOTHGRAD_POINTS = 51  # 50 samples and the image itself


def imports() -> Iterator[dict[str, Any]]:
    """Yield wall-clock milliseconds of each import in fresh processes, and which weighty packages it brings."""
    for name, statement in IMPORTS.items():
        found = [fresh_import(statement) for _ in range(FRESH_PROCESSES)]
        yield {
            "measure": "import",
            "what": name,
            "median_ms": round(statistics.median(each["ms"] for each in found), 1),
            "max_ms": round(max(each["ms"] for each in found), 1),
            "loads": found[0]["loads"],
        }


def fresh_import(statement: str) -> dict[str, Any]:
    script = (
        f"import json, sys, time\nstart = time.perf_counter()\n{statement}\nms = 1e3 * (time.perf_counter() - start)\n"
        f"print(json.dumps({{'ms': ms, 'loads': [name for name in {WEIGHTY!r} if name in sys.modules]}}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def memory(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield cold start and resident memory of VGG-16 at 32x32 with its explainer, every method having run."""
    bundle = make_bundle("vgg16@32", folder)
    found = cold_start(Subject(bundle, FP32), "vgg16@32", BenchmarkOptions(cold_starts=3))
    yield {
        "measure": "memory",
        "what": "vgg16@32 classifier and explainer",
        "steady_mib": round(statistics.median(found.steady_mib), 1),
        "peak_mib": round(statistics.median(found.peak_mib), 1),
        "cold_start_ms": {name: round(statistics.median(values), 1) for name, values in found.phases.items()},
    }


def chunks(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield processor time of one SmoothGrad on one thread by sample points per run: the reason of the default.

    Processor time, in rounds over all sizes: other processes on the machine disturb it least.
    """
    for name in MODELS:
        bundle = make_bundle(name, folder)
        explainer = Explainer(bundle, threads=1)
        image = benchmark_images(bundle, 1)
        times: dict[int, list[float]] = {chunk: [] for chunk in CHUNKS}
        for _ in range(1 + ROUNDS):
            for chunk, samples in times.items():
                start = time.process_time()
                explainer.explain(image, "sg", target=1, chunk=chunk)
                samples.append(1e3 * (time.process_time() - start))
        yield {
            "measure": "chunk",
            "what": f"{name} SmoothGrad of 50 samples, one thread",
            "default": min(default_chunk("cpu", bundle.manifest.input), SMOOTHGRAD_POINTS),
            # The first round warms up.
            "cpu_ms_by_chunk": {chunk: round(statistics.median(each[1:]), 1) for chunk, each in times.items()},
        }


def make_bundle(name: str, folder: Path) -> Bundle:
    """Return a bundle of the untrained model ``name``, made once."""
    from export.bundle import Contents, write_bundle
    from export.to_onnx import to_onnx
    from toolkit import models

    target = folder / name
    if not target.exists():
        architecture, size = MODELS[name]
        classifier = to_onnx(models.build(architecture, CLASSES, input_size=size, seed=0), input_size=(size, size))
        contents = Contents(
            name=name,
            input=InputSpec(height=size, width=size, mean=(0.4563, 0.4076, 0.3895), std=(0.2298, 0.2144, 0.2259)),
            labels=tuple(f"class {index}" for index in range(CLASSES)),
            golden_images=np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32),
        )
        write_bundle(target, classifier, contents)
    return open_bundle(target)


def main(parts: list[str]) -> None:
    """Run ``parts``, or all and record, with the load that other processes made beforehand."""
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        available: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "imports": imports,
            "memory": partial(memory, folder),
            "chunks": partial(chunks, folder),
        }
        rows = []
        for part in parts or available:
            for row in available[part]():
                rows.append(row)
                print(row, flush=True)
    if not parts:
        print(record("runtime", rows, load_average=load))


if __name__ == "__main__":
    main(sys.argv[1:])
