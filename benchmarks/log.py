"""How long one commit of the audit log takes on this device's disk: `python -m benchmarks.log [FOLDER]`.

Commits one frame at a time, the hardest case, and in groups; with a new log and with one at its byte cap, where every
few commits also evict. The bar is a commit p99 below 5 ms. A plain write and fsync of one page in the same folder,
alternating with the commits, shows what the disk itself takes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from benchmarks.common import record
from edge_runtime.device import DeviceReadings
from edge_runtime.log import AuditLog, ExplainerReading, FrameRecord, Group, LogIdentity, verify
from edge_runtime.log.thumbnails import encode_saliency

BAR_MS = 5.0
COMMITS = 2000
WARMUP = 50
EVERY_CALL = Group(records=10**9, seconds=1e9)
IDENTITY = LogIdentity(software="roadworthy benchmark", bundle="none", bundle_digest="0" * 64)
CAPS = {"new log": 256 << 20, "log at its cap": 4 << 20}
# frames per commit, with a saliency thumbnail each or not
LOADS = {"1 frame": (1, False), "1 frame with thumbnail": (1, True), "32 frames with thumbnails": (32, True)}


def frame(number: int, saliency: bytes | None) -> FrameRecord:
    """Return a record with everything that a frame usually carries."""
    return FrameRecord(
        frame_id=f"camera0/{number:09d}",
        prediction=number % 43,
        label="speed limit 30",
        probability=0.987654321,
        latency_ms={"decode": 1.2345, "classify": 4.5678, "explain": 33.123},
        explainers={
            "vg": ExplainerReading(gini=0.57123, gradient_norm=12.3456, reduction="sum_abs"),
            "ig": ExplainerReading(gini=0.67123, gradient_norm=3.3456, completeness_gap=1.2e-4, reduction="sum_abs"),
        },
        device=DeviceReadings(hottest_celsius=51.5, power_watts=7.62, power_source="VDD_IN", throttled=False),
        saliency_method="vg" if saliency else None,
        saliency=saliency,
    )


def commit_times(log: AuditLog, load: tuple[int, bool], beside: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return the milliseconds of every commit and of the plain write beside each."""
    frames, with_picture = load
    picture = encode_saliency(np.random.default_rng(0).random((64, 64), dtype=np.float32)) if with_picture else None
    commits, plain = [], []
    for number in range(WARMUP + COMMITS):
        for extra in range(frames):
            log.append(frame(number * frames + extra, picture))
        begin = time.perf_counter()
        log.commit()
        commits.append((time.perf_counter() - begin) * 1e3)
        plain.append(beside())
    return commits[WARMUP:], plain[WARMUP:]


def plain_write(folder: Path) -> Callable[[], float]:
    """Return a function that overwrites a page of a file, syncs it, and returns the milliseconds."""
    descriptor = os.open(folder / "plain", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(4096), 0)

    def write() -> float:
        begin = time.perf_counter()
        os.pwrite(descriptor, os.urandom(4096), 0)
        os.fdatasync(descriptor)
        return (time.perf_counter() - begin) * 1e3

    return write


def percentiles(samples: list[float]) -> dict[str, float]:
    """Return the percentiles of all samples, none left out."""
    values = np.percentile(samples, (50, 95, 99, 99.9, 100))
    return {name: round(float(v), 4) for name, v in zip(("p50", "p95", "p99", "p99.9", "max"), values, strict=True)}


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return one row per log size and load."""
    rows = []
    for size, cap in CAPS.items():
        for load, (frames, with_picture) in LOADS.items():
            path = folder / "audit.log"
            with AuditLog(path, IDENTITY, max_bytes=cap, group=EVERY_CALL) as log:
                if size == "log at its cap":
                    for number in range(3000):
                        log.append(frame(number, bytes(3000)))
                    log.commit()
                commits, plain = commit_times(log, (frames, with_picture), plain_write(folder))
                assert log.status.error is None
                evicted = verify(path).evicted
            row = {
                "log": size,
                "load": load,
                "commits": len(commits),
                "commit_ms": percentiles(commits),
                "plain_write_and_sync_ms": percentiles(plain),
                "records_evicted": evicted,
                "within_bar": bool(np.percentile(commits, 99) < BAR_MS),
            }
            rows.append(row)
            print(f"{size:<15} {load:<26} p50 {row['commit_ms']['p50']:7.3f}  p99 {row['commit_ms']['p99']:7.3f} ms")
            for part in folder.iterdir():
                part.unlink()
    return rows


def main() -> None:
    """Measure and record."""
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        rows = measure(Path(folder))
    print(
        record("log", rows, bar="commit p99 below 5 ms", sqlite=apsw.sqlite_lib_version(), load_average=os.getloadavg())
    )


if __name__ == "__main__":
    main()
