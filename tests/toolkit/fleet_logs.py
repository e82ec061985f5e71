"""Audit logs of made-up vehicles, for the tests of reports from the road."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.device_identity import DeviceIdentity
from edge_runtime.log import (
    AuditLog,
    EventRecord,
    ExplainerReading,
    FrameRecord,
    Group,
    LogIdentity,
    Lost,
    RoadWindow,
)

DIGEST = "ab" * 32
RARELY = Group(records=10**9, seconds=1e9)


def identity(vehicle: str | None, digest: str = DIGEST) -> LogIdentity:
    return LogIdentity(
        software="roadworthy test",
        bundle="natural",
        bundle_digest=digest,
        provider="cpu",
        device=DeviceIdentity(board="Test Board"),
        vehicle=vehicle,
    )


def road(morf: float, lerf: float, measure: str = "agreement") -> tuple[RoadWindow, ...]:
    """Return a window in both orders."""
    return tuple(
        RoadWindow(
            measure="accuracy" if measure == "accuracy" else "agreement",
            method="vg",
            order="morf" if order == "morf" else "lerf",
            percentages=(10.0, 50.0),
            scores=(auc, auc),
            auc=auc,
            images=16,
        )
        for order, auc in (("morf", morf), ("lerf", lerf))
    )


def times(seed: int, frames: int = 300) -> list[float]:
    """Return the latencies that :func:`write_log` logs for a seed."""
    return [float(value) for value in np.random.default_rng(seed).gamma(4.0, 1.0, frames)]


def write_log(path: Path, vehicle: str | None, seed: int, *, frames: int = 300, digest: str = DIGEST) -> Path:
    """Write a log: Gini on every tenth frame (the twentieth undefined), ROAD once, a drift and back, losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AuditLog(path, identity(vehicle, digest), group=RARELY) as log:
        for number, milliseconds in enumerate(times(seed, frames)):
            audited = number % 10 == 0
            log.append(
                FrameRecord(
                    frame_id=f"{seed}/{number}",
                    prediction=None if number == 5 else number % 43,
                    label=None if number == 5 else "stop",
                    probability=None if number == 5 else 0.9,
                    latency_ms={"classify": milliseconds, **({"vg": 2 * milliseconds} if audited else {})},
                    explainers={
                        "vg": ExplainerReading(
                            gini=None if number == 20 else 0.5 + number / 10_000, reduction="sum_abs"
                        )
                    }
                    if audited
                    else {},
                    road=road(0.3, 0.9) + road(0.1, 0.2, "accuracy") if number == 40 else (),
                    flags=("failed: test",) if number == 5 else (),
                )
            )
        log.append(EventRecord(name="drift", message=f"gini vg left <its> baseline {seed}", data={"p_value": 1e-6}))
        log.append(EventRecord(name="drift-over", message="gini vg is back"))
        log.append(EventRecord(name="degradation", message="no ROAD", data={"before": 0.0, "step": 1.0}))
        log.append(EventRecord(name="camera-lost"))
        log.append(Lost(count=7, first_wall_ns=1, last_wall_ns=2, reason="disk full"))
    return path
