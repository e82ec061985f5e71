"""What DuckDB finds in the logs is what NumPy finds in the values that were logged."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import toolkit.report.fleet as fleet
from edge_runtime.latency import statistics
from edge_runtime.log.export import export_log
from tests.toolkit.fleet_logs import DIGEST, times, write_log
from toolkit.report.fleet import FleetTable, Vehicle, listed_events, vehicles
from toolkit.report.logs import gather, split

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")
OTHER = "cd" * 32


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two named vehicles, one of them with two logs (one exported) and one with two bundles, and a nameless one."""
    folder = tmp_path_factory.mktemp("logs")
    write_log(folder / "one" / "a.log", "car-1", 0)
    export_log(write_log(folder / "b.log", "car-1", 1, frames=200), folder / "one" / "b.parquet")
    (folder / "b.log").unlink()
    (folder / "b.log-anchor").unlink(missing_ok=True)
    write_log(folder / "two" / "a.log", "car '2\"", 2)
    write_log(folder / "two" / "other.log", "car '2\"", 3, digest=OTHER)
    write_log(folder / "three.log", None, 4)
    return folder


def read(logs: Path, scratch: Path) -> dict[tuple[str, str], Vehicle]:
    found = gather(split([logs])[0], scratch)
    assert found.problems == ()
    with FleetTable(found.files, scratch) as table:
        return {vehicle.key: vehicle for vehicle in vehicles(table)}


@pytest.fixture(scope="module")
def found(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Vehicle]:
    return read(logs, tmp_path_factory.mktemp("scratch"))


def test_who_drove(found: dict[tuple[str, str], Vehicle]) -> None:
    assert list(found) == [("car '2\"", DIGEST), ("car '2\"", OTHER), ("car-1", DIGEST), ("three", DIGEST)]
    car = found["car-1", DIGEST]
    assert (car.files, car.records, car.frames, car.failed) == (2, 510, 500, 2)
    assert (car.bundle, car.device, car.provider, car.variant) == ("natural", "Test Board", "cpu", None)
    assert 0 < car.last_ns - car.first_ns < 600e9


@pytest.mark.parametrize(
    ("key", "samples"),
    [
        (("car-1", DIGEST), times(0) + times(1, 200)),
        (("car '2\"", DIGEST), times(2)),
        (("car '2\"", OTHER), times(3)),
        (("three", DIGEST), times(4)),
    ],
)
def test_percentiles_are_exact(
    key: tuple[str, str], samples: list[float], found: dict[tuple[str, str], Vehicle]
) -> None:
    expected = statistics(np.array([samples]))
    latency = found[key].latency["classify"]
    assert latency.count == len(samples)
    for name in ("p50", "p95", "p99"):
        assert getattr(latency, name) == expected[name][0]
    assert found[key].latency["vg"].count == len(samples) // 10


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 99, 100, 101, 1000])
def test_the_definition_of_a_percentile_is_the_benchmarks(count: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(count).random(count)
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as db:
        db.execute("CREATE TABLE sample (value DOUBLE)")
        db.executemany("INSERT INTO sample VALUES (?)", [[float(value)] for value in samples])
        ((values,),) = db.execute(f"SELECT quantile_disc(value, {list(fleet.PERCENTILES)}) FROM sample").fetchall()
    expected = statistics(samples[None])
    assert values == [expected[name][0] for name in ("p50", "p95", "p99")]


def test_measures(found: dict[tuple[str, str], Vehicle]) -> None:
    car = found["car '2\"", DIGEST]
    values = [0.5 + number / 10_000 for number in range(0, 300, 10) if number != 20]
    gini = car.gini["vg"]
    assert (gini.count, gini.undefined) == (29, 1)
    assert gini.mean == pytest.approx(np.mean(values))
    assert [gini.p5, gini.p50, gini.p95] == np.quantile(values, fleet.SPREAD, method="inverted_cdf").tolist()
    assert set(car.gini) == {"vg"}
    assert car.confidence is not None
    assert (car.confidence.count, car.confidence.p50) == (299, 0.9)
    assert {name: (road.count, road.mean) for name, road in car.road.items()} == {
        "vg agreement": (1, pytest.approx(0.3)),
        "vg accuracy": (1, pytest.approx(0.05)),
    }
    assert car.road_images == 16


def test_gaps_and_events(found: dict[tuple[str, str], Vehicle]) -> None:
    car = found["car-1", DIGEST]
    assert car.lost == 14
    assert car.events == {"camera-lost": 2, "degradation": 2, "drift": 2, "drift-over": 2}


def test_evicted_records_are_those_of_the_newest_gap(tmp_path: Path) -> None:
    from edge_runtime.log import AuditLog, FrameRecord, verify
    from tests.toolkit.fleet_logs import RARELY, identity

    path = tmp_path / "logs" / "small.log"
    path.parent.mkdir()
    with AuditLog(path, identity("small"), max_bytes=1 << 20, group=RARELY) as log:
        for number in range(3000):
            log.append(FrameRecord(frame_id="x" * 1000, latency_ms={"classify": float(number)}))
            if number % 100 == 0:
                log.commit()
    (tmp_path / "scratch").mkdir()
    (vehicle,) = read(tmp_path / "logs", tmp_path / "scratch").values()
    assert vehicle.evicted == verify(path).evicted > 0


def test_listed_events_are_the_newest_first(logs: Path, tmp_path: Path) -> None:
    with FleetTable(gather(split([logs])[0], tmp_path).files, tmp_path) as table:
        events = listed_events(table)
    assert len(events) == 15
    assert [event.wall_ns for event in events] == sorted((event.wall_ns for event in events), reverse=True)
    assert {event.name for event in events} == {"drift", "drift-over", "degradation"}


def test_batches_of_vehicles_change_nothing(
    found: dict[tuple[str, str], Vehicle], logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "ROWS_PER_BATCH", 1)
    again = read(logs, tmp_path)
    assert list(again) == list(found)
    for key, vehicle in again.items():
        assert vehicle.latency == found[key].latency
        assert vehicle.gini["vg"].mean == pytest.approx(found[key].gini["vg"].mean), "sums know no order"
        assert (vehicle.road, vehicle.events, vehicle.lost) == (found[key].road, found[key].events, found[key].lost)


def test_columns_that_only_some_logs_have(tmp_path: Path) -> None:
    """A log without explanations, one whose Gini is never defined, and one with a stage of its own."""
    from edge_runtime.log import AuditLog, ExplainerReading, FrameRecord
    from tests.toolkit.fleet_logs import identity

    folder = tmp_path / "logs"
    folder.mkdir()
    readings = {
        "plain": {},
        "undefined": {"vg": ExplainerReading(reduction="sum_abs")},
        "defined": {"vg": ExplainerReading(gini=0.25, reduction="sum_abs")},
    }
    for name, explainers in readings.items():
        with AuditLog(folder / f"{name}.log", identity(name)) as log:
            stage = "odd \"stage'" if name == "plain" else "classify"
            log.append(FrameRecord(frame_id="1", latency_ms={stage: 1.5, "never": None}, explainers=explainers))
    (tmp_path / "scratch").mkdir()
    found = {name: vehicle for (name, _), vehicle in read(folder, tmp_path / "scratch").items()}
    assert found["plain"].latency["odd \"stage'"].p99 == 1.5
    assert found["defined"].gini["vg"].mean == 0.25
    assert (found["undefined"].gini, found["plain"].gini, found["plain"].road) == ({}, {}, {})
    assert found["undefined"].latency["classify"].count == 1


def test_the_logs_are_not_touched(logs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(logs, copy)

    def sums() -> dict[str, str]:
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.rglob("*") if path.is_file()}

    before = sums()
    (tmp_path / "scratch").mkdir()
    read(copy, tmp_path / "scratch")
    assert sums() == before
