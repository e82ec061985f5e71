"""What the report shows of the road: every vehicle beside its bundle's figures on the desktop, and what is missing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import DataError
from edge_runtime.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest
from toolkit.report.fleet import SPREAD, Event, FleetTable, Spread, Vehicle, listed_events, vehicles
from toolkit.report.logs import Problem, Progress, gather, quiet
from toolkit.report.summary import Summary


@dataclass(frozen=True)
class Desktop:
    """A bundle on the desktop: Gini and ROAD's (LeRF - MoRF) / 2 by explainer, median latency in milliseconds.

    Where an audit gave only means the percentiles are NaN.
    """

    name: str
    gini: Mapping[str, Spread] = field(default_factory=dict)
    road: Mapping[str, Spread] = field(default_factory=dict)
    latency: float | None = None


@dataclass(frozen=True)
class Fleet:
    """All vehicles, by name; their newest drift and degradation events; logs that were left out; desktops by digest."""

    vehicles: Sequence[Vehicle]
    events: Sequence[Event] = ()
    problems: Sequence[Problem] = ()
    desktops: Mapping[str, Desktop] = field(default_factory=dict)
    files: int = 0

    def desktop(self, vehicle: Vehicle) -> Desktop | None:
        """Return the desktop's figures of a vehicle's bundle, if there are any."""
        return self.desktops.get(vehicle.digest)

    def base(self, vehicle: Vehicle, measure: str, method: str) -> Spread | None:
        """Return the desktop's distribution of "gini" or "road" for a vehicle's bundle and an explainer."""
        desktop = self.desktop(vehicle)
        if desktop is None:
            return None
        return (desktop.gini if measure == "gini" else desktop.road).get(method)

    def bundle(self, vehicle: Vehicle) -> str:
        """Return what the report calls a vehicle's bundle."""
        desktop = self.desktop(vehicle)
        return desktop.name if desktop else vehicle.bundle


def read_fleet(
    logs: Sequence[Path], summaries: Sequence[Summary], paths: Iterable[Path], progress: Progress = quiet
) -> Fleet:
    """Read the logs; ``summaries`` and the manifests below ``paths`` give the desktop's figures.

    Raises DataError where not one log is whole.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-report-") as folder:
        scratch = Path(folder)
        found = gather(logs, scratch, progress)
        if not found.files:
            first = found.problems[0]
            raise DataError(f"none of {len(logs)} logs can be used; {first.name}: {first.reason}")
        with FleetTable(found.files, scratch) as table:
            return Fleet(
                vehicles(table),
                listed_events(table),
                found.problems,
                desktops(summaries, manifests(paths)),
                len(found.files),
            )


def manifests(paths: Iterable[Path]) -> dict[str, Manifest]:
    """Return every bundle's manifest in or below ``paths`` by its digest; what is no manifest is passed over."""
    found = {}
    for path in paths:
        for file in sorted(path.rglob(MANIFEST)) if path.is_dir() else []:
            if file.stat().st_size > MAX_MANIFEST_BYTES:
                continue
            data = file.read_bytes()
            try:
                found[hashlib.sha256(data).hexdigest()] = msgspec.json.decode(data, type=Manifest)
            except msgspec.DecodeError:
                continue
    return found


def desktops(summaries: Sequence[Summary], manifests_by_digest: Mapping[str, Manifest]) -> dict[str, Desktop]:
    """Join the manifests' baselines, which are distributions, with the audits' figures, which are means and latency."""
    joined = {}
    for digest, manifest in manifests_by_digest.items():
        gini = {method: spread(values) for method, values in manifest.baselines.gini.items() if values}
        road = {method: spread(found.areas) for method, found in manifest.baselines.road.items() if found.areas}
        joined[digest] = Desktop(manifest.name, gini, road)
    for summary in summaries:
        known = joined.get(summary.digest, Desktop(summary.name))
        gini = {method: mean_alone(summary.audited, mean.value) for method, mean in summary.gini.items()}
        road = {method: mean_alone(summary.audited, curves.combined) for method, curves in summary.road.items()}
        timed = summary.latency.get("classify")
        p50 = timed.p50 if timed else None
        joined[summary.digest] = Desktop(summary.name, {**gini, **known.gini}, {**road, **known.road}, p50)
    return joined


def mean_alone(count: int, mean: float) -> Spread:
    """Return what an audit knows: the mean without the distribution."""
    nan = float("nan")
    return Spread(count, mean, nan, nan, nan)


def spread(values: Sequence[float]) -> Spread:
    """Return the distribution of a baseline's values."""
    p5, p50, p95 = np.quantile(values, SPREAD, method="inverted_cdf").tolist()
    return Spread(len(values), float(np.mean(values)), p5, p50, p95)
