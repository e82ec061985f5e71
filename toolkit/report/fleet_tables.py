"""The road's tables: one row for each vehicle and bundle, as text for the page and as numbers for the CSV files."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.fleet import Event, Spread, Vehicle
from toolkit.report.fleet_summary import Fleet
from toolkit.report.tables import MISSING, csv_text

ROWS_ON_PAGE = 200
EVENTS_ON_PAGE = 100
ON_THE_ROAD = "agreement"  # ROAD's measure where nobody knows the label
Value = float | int | str | None


@dataclass(frozen=True)
class FleetColumn:
    """A column of the page's table: its group, heading, the value behind a cell, and how it is written."""

    group: str
    name: str
    value: Callable[[Fleet, Vehicle], Value]
    write: Callable[[Value], str] = str

    def cell(self, fleet: Fleet, vehicle: Vehicle) -> str:
        """Return the cell's text."""
        value = self.value(fleet, vehicle)
        return MISSING if value is None or value != value else self.write(value)


def _latency(percentile: str) -> Callable[[Fleet, Vehicle], Value]:
    return lambda fleet, vehicle: getattr(vehicle.latency.get("classify"), percentile, None)


def _gini(method: str) -> Callable[[Fleet, Vehicle], Value]:
    return lambda fleet, vehicle: vehicle.gini[method].mean if method in vehicle.gini else None


def _mean(base: Spread | None) -> Value:
    return base.mean if base else None


def _desktop_gini(method: str) -> Callable[[Fleet, Vehicle], Value]:
    return lambda fleet, vehicle: _mean(fleet.base(vehicle, "gini", method))


def _road(fleet: Fleet, vehicle: Vehicle) -> Value:
    method = road_method(vehicle)
    return vehicle.road[f"{method} {ON_THE_ROAD}"].mean if method else None


def _desktop_road(fleet: Fleet, vehicle: Vehicle) -> Value:
    return _mean(fleet.base(vehicle, "road", road_method(vehicle) or ""))


def road_method(vehicle: Vehicle) -> str | None:
    """Return the first explainer, in the usual order, whose ROAD a vehicle measured on its way."""
    return next((method for method in METHOD_TITLES if f"{method} {ON_THE_ROAD}" in vehicle.road), None)


def _events(name: str) -> Callable[[Fleet, Vehicle], Value]:
    return lambda fleet, vehicle: vehicle.events.get(name, 0)


def _number(form: str) -> Callable[[Value], str]:
    return lambda value: format(value, form)


LATENCY = "latency, ms"
COLUMNS: tuple[FleetColumn, ...] = (
    FleetColumn("", "bundle", lambda fleet, vehicle: fleet.bundle(vehicle)),
    FleetColumn("", "frames", lambda fleet, vehicle: vehicle.frames, _number(",")),
    *(FleetColumn(LATENCY, name, _latency(name), _number(".2f")) for name in ("p50", "p95", "p99")),
    FleetColumn("Gini VG", "road", _gini("vg"), _number(".3f")),
    FleetColumn("Gini VG", "desktop", _desktop_gini("vg"), _number(".3f")),
    FleetColumn("ROAD", "road", _road, _number("+.3f")),
    FleetColumn("ROAD", "desktop", _desktop_road, _number("+.3f")),
    FleetColumn("events", "drift", _events("drift"), _number(",")),
    FleetColumn("events", "degraded", _events("degradation"), _number(",")),
    FleetColumn("records", "failed", lambda fleet, vehicle: vehicle.failed, _number(",")),
    FleetColumn("records", "lost", lambda fleet, vehicle: vehicle.lost, _number(",")),
    FleetColumn("records", "evicted", lambda fleet, vehicle: vehicle.evicted, _number(",")),
)


def stages(fleet: Fleet) -> list[str]:
    """Return the stages that any vehicle timed, classification first."""
    found = {stage for vehicle in fleet.vehicles for stage in vehicle.latency}
    return sorted(found, key=lambda stage: (stage != "classify", stage))


def stage_cell(vehicle: Vehicle, stage: str) -> str:
    """Return the three percentiles of a stage as text."""
    found = vehicle.latency.get(stage)
    return f"{found.p50:.2f} / {found.p95:.2f} / {found.p99:.2f}" if found else MISSING


def slowest_first(fleet: Fleet) -> list[Vehicle]:
    """Return the vehicles that the page shows: of more than ROWS_ON_PAGE those with the longest tails."""

    def tail(vehicle: Vehicle) -> float:
        return vehicle.latency["classify"].p99 if "classify" in vehicle.latency else -1.0

    shown = sorted(fleet.vehicles, key=tail, reverse=True)[:ROWS_ON_PAGE]
    return sorted(shown, key=lambda vehicle: vehicle.key)


def moment(wall_ns: int) -> str:
    """Return a wall-clock time in UTC, to the second."""
    try:
        then = datetime.datetime.fromtimestamp(wall_ns // 10**9, datetime.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return "impossible time"
    return f"{then:%Y-%m-%d %H:%M:%S}"


def event_rows(events: list[Event]) -> list[tuple[str, str, str, str]]:
    """Return the newest events as text: time, vehicle, name, message."""
    return [(moment(event.wall_ns), event.vehicle, event.name, event.message) for event in events[:EVENTS_ON_PAGE]]


def fleet_files(fleet: Fleet) -> dict[str, str]:
    """Return the CSV files of everything that the road's tables and figures show, by file name."""
    who = ["vehicle", "bundle", "digest"]

    def key(vehicle: Vehicle) -> list[str]:
        return [vehicle.name, fleet.bundle(vehicle), vehicle.digest]

    base = ["desktop_mean", "desktop_p5", "desktop_p95"]
    gini = ["explainer", "values", "mean", "p5", "p50", "p95", "undefined", *base]
    return {
        "vehicles.csv": csv_text(
            [*who, "device", "provider", "first", "last", "files", "records"]
            + [f"{column.group} {column.name}".strip() for column in COLUMNS[1:]],
            (
                [*key(v), v.device, v.provider, moment(v.first_ns), moment(v.last_ns), v.files, v.records]
                + [column.value(fleet, v) for column in COLUMNS[1:]]
                for v in fleet.vehicles
            ),
        ),
        "vehicles_latency.csv": csv_text(
            [*who, "stage", "count", "p50_ms", "p95_ms", "p99_ms"],
            ([*key(v), stage, t.count, t.p50, t.p95, t.p99] for v in fleet.vehicles for stage, t in v.latency.items()),
        ),
        "vehicles_gini.csv": csv_text(
            [*who, *gini],
            (
                [
                    *key(v),
                    method,
                    s.count,
                    s.mean,
                    s.p5,
                    s.p50,
                    s.p95,
                    s.undefined,
                    *base_cells(fleet.base(v, "gini", method)),
                ]
                for v in fleet.vehicles
                for method, s in v.gini.items()
            ),
        ),
        "vehicles_road.csv": csv_text(
            [*who, "explainer", "measure", "windows", "mean", "p5", "p50", "p95", *base],
            (
                [*key(v), *name.split(), *cells(s), *base_cells(fleet.base(v, "road", name.split()[0]))]
                for v in fleet.vehicles
                for name, s in v.road.items()
            ),
        ),
        "vehicles_events.csv": csv_text(
            [*who, "event", "count"],
            ([*key(v), name, count] for v in fleet.vehicles for name, count in v.events.items()),
        ),
        "events.csv": csv_text(
            ["time", "vehicle", "event", "message"],
            ([moment(e.wall_ns), e.vehicle, e.name, e.message] for e in fleet.events),
        ),
        "left_out.csv": csv_text(["log", "reason"], ([p.name, p.reason] for p in fleet.problems)),
    }


def cells(found: Spread) -> list[float]:
    """Return a distribution's count, mean, p5, p50 and p95."""
    return [found.count, found.mean, found.p5, found.p50, found.p95]


def base_cells(base: Spread | None) -> list[float | None]:
    """Return mean, p5 and p95 of a desktop's distribution, None where there are none."""
    values = (base.mean, base.p5, base.p95) if base else (None, None, None)
    return [None if value != value else value for value in values]


def explainers(fleet: Fleet) -> list[str]:
    """Return the explainers that any vehicle ran, in the usual order."""
    return [method for method in METHOD_TITLES if any(method in vehicle.gini for vehicle in fleet.vehicles)]
