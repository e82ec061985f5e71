"""What every benchmark shares: alternating timings and the record of a run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy", "onnx", "onnxruntime-gpu", "onnxruntime", "torch", "torchvision", "captum", "torch-pruning", "scipy",
)  # fmt: skip


def record(name: str, rows: Sequence[Mapping[str, Any]], **context: Any) -> Path:
    """Write ``rows`` to ``results/NAME.json`` beside the device, the versions, the date and ``context``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device(),
        "versions": versions(),
        **context,
        "rows": list(rows),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == int(sys.argv[2]):
    pass
"""


@contextlib.contextmanager
def awake_cores() -> Iterator[None]:
    """Keep every core from falling asleep meanwhile, by a loop that runs only where nothing else wants to.

    A virtual machine's idle core goes back to its host, and how long it takes to return says nothing about the program:
    one inference every 33 ms had a p99 of 107 ms that way and of 9 to 21 ms with its cores awake.
    """
    cores = sorted(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", SPIN, str(core), str(os.getpid())]) for core in cores]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


def device() -> dict[str, Any]:
    """Name the processor, the cores this process may use, and the accelerator where PyTorch sees one."""
    found: dict[str, Any] = {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}
    try:
        import torch
    except ImportError:
        return found
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that matter here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def alternate(
    runs: Mapping[str, Callable[[], Any]], *, warmup: int = 3, repeats: int = 30, seconds: float = 20.0
) -> dict[str, list[float]]:
    """Time each of ``runs`` in turn, A B A B, so that drift and neighbours hit all alike; return seconds per call.

    Every run gets ``warmup`` unrecorded calls; recording ends after ``repeats`` rounds or ``seconds``, whichever comes
    first, but not before three rounds.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for done in range(repeats):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - begin)
    return samples


def ratio(samples: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """Return the median over rounds of above / below: both of a round met the same neighbours."""
    return statistics.median(a / b for a, b in zip(samples[above], samples[below], strict=True))


def milliseconds(samples: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(samples) * 1e3
