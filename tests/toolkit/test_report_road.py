"""The report from the road: logs and results joined on one page, what is missing said, all numbers in CSV files."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from edge_runtime.manifest import Baselines, RoadBaseline
from tests.toolkit.conftest import Roadworthy, call, one_line
from tests.toolkit.fleet_logs import write_log
from toolkit.report.fleet import Percentiles, Spread, Vehicle
from toolkit.report.fleet_figures import fleet_figures
from toolkit.report.fleet_summary import Desktop, Fleet, desktops, manifests
from toolkit.report.fleet_tables import COLUMNS, EVENTS_ON_PAGE, ROWS_ON_PAGE, fleet_files, slowest_first
from toolkit.report.page import write_files
from toolkit.report.summary import Estimate, Latency, RoadCurves, Summary

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")


def vehicle(number: int, **changes: object) -> Vehicle:
    fields = {
        "name": f"car-{number:04}",
        "digest": "ab" * 32,
        "bundle": "natural",
        "variant": None,
        "provider": "cpu",
        "device": "Test Board",
        "first_ns": 0,
        "last_ns": 10**18,
        "latency": {"classify": Percentiles(100, 1.0 + number, 2.0 + number, 3.0 + number)},
        "gini": {"vg": Spread(10, 0.5, 0.4, 0.5, 0.6)},
    }
    return Vehicle(**{**fields, **changes})  # type: ignore[arg-type]


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "data" / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def road(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an audit of a bundle, the logs of two vehicles that run it, and a log that was tampered with."""
    folder = tmp_path_factory.mktemp("road")
    assert call("audit", tiny_bundle, "--out", folder / "natural", "--examples", 1) == 0
    digest = hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest()
    write_log(folder / "logs" / "1.log", "<car 1>", 1, digest=digest)
    write_log(folder / "logs" / "2.log", "car 2", 2, digest=digest)
    data = bytearray(write_log(folder / "logs" / "bad.log", "bad", 3).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "logs" / "bad.log").write_bytes(data)
    return folder


def test_results_and_logs_on_one_page(roadworthy: Roadworthy, road: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, said, warned = roadworthy("report", road, "--out", out)
    assert (code, said.strip()) == (0, str(out / "report.html"))
    (warning,) = warned.splitlines()
    assert warning.startswith(f"roadworthy: warning: {road / 'logs' / 'bad.log'} is left out: ")
    page = (out / "report.html").read_text()
    assert "1 log was left out" in page
    assert f"<code>{road / 'logs' / 'bad.log'}</code>" in page
    assert ">natural</td>" in page
    assert "&lt;car 1&gt;" in page and "<car 1>" not in page
    assert "gini vg left &lt;its&gt; baseline 1" in page
    assert "Latency by stage" in page
    stages = rows(out, "vehicles_latency.csv")
    timed = {row["stage"]: row for row in stages if row["vehicle"] == "car 2"}["vg"]
    cell = " / ".join(f"{float(timed[name]):.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    assert f'<td data-name="vg">{cell}</td>' in page
    for name in ("fleet_latency", "fleet_gini_vg", "fleet_road_vg", "fleet_tradeoff", "gini"):
        assert (out / "figures" / f"{name}.svg").is_file()
        assert f'alt="{name}"' in page
    cars = rows(out, "vehicles.csv")
    assert [row["vehicle"] for row in cars] == ["<car 1>", "car 2"]
    assert {row["bundle"] for row in cars} == {"natural"}
    assert (cars[0]["frames"], cars[0]["records lost"], cars[0]["events drift"]) == ("300", "7", "1")
    assert float(cars[0]["ROAD road"]) == pytest.approx(0.3)
    audited = {row["explainer"]: float(row["mean"]) for row in rows(out, "gini.csv")}
    gini = rows(out, "vehicles_gini.csv")[0]
    assert float(gini["desktop_mean"]) == pytest.approx(audited["vg"])
    assert len(rows(out, "vehicles_latency.csv")) == 4
    assert [row["log"] for row in rows(out, "left_out.csv")] == [str(road / "logs" / "bad.log")]


def test_logs_alone_with_a_bundle_for_the_baselines(
    roadworthy: Roadworthy, road: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    logs = [road / "logs" / name for name in ("1.log", "2.log")]
    assert roadworthy("report", *logs, "--out", tmp_path / "alone")[::2] == (0, "")
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "2 audit logs of 2" in page
    assert "What the variants look at" not in page
    assert "left out" not in page
    assert rows(tmp_path / "alone", "vehicles_gini.csv")[0]["desktop_mean"] == ""
    bundle = tmp_path / "bundles" / "natural"
    shutil.copytree(tiny_bundle, bundle)
    assert roadworthy("report", road / "logs" / "*.log", bundle, "--out", tmp_path / "both")[0] == 0
    assert rows(tmp_path / "both", "vehicles.csv")[0]["bundle"].startswith("rendered-vgg_small")


def test_what_cannot_be_reported(roadworthy: Roadworthy, road: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = road / "logs" / "bad.log"
    assert f"none of 1 logs can be used; {bad}: " in one_line(roadworthy("report", bad, "--out", out))
    assert "matches no file" in one_line(roadworthy("report", tmp_path / "*.log", "--out", out))
    assert "does not exist" in one_line(roadworthy("report", tmp_path / "none.log", "--out", out))
    (tmp_path / "empty").mkdir()
    assert "no results in" in one_line(roadworthy("report", tmp_path / "empty", "--out", out))
    assert not out.exists()


def test_thousands_of_vehicles_stay_readable(tmp_path: Path) -> None:
    fleet = Fleet([vehicle(number) for number in range(1000)], files=1000)
    shown = slowest_first(fleet)
    assert len(shown) == ROWS_ON_PAGE
    assert shown[0].name == f"car-{1000 - ROWS_ON_PAGE:04}", "those with the longest tails, by name"
    page = write_files(tmp_path, [], "Fleet", fleet=fleet)
    assert "data/vehicles.csv holds all" in page.read_text()
    assert len(rows(tmp_path, "vehicles.csv")) == 1000
    assert page.stat().st_size < 1 << 20


@pytest.mark.parametrize("names", [("natural",), ("short", "names"), tuple("abcdefgh"), ("a-very-long-name-" * 3,) * 5])
def test_the_bundles_names_are_not_cut_off(names: tuple[str, ...]) -> None:
    """They are as long as variants are described, and stand in the legend under the axes."""
    fleet = Fleet([vehicle(n, digest=f"{n:064}", bundle=f"{name}{n}") for n, name in enumerate(names)])
    for name, figure in fleet_figures(fleet).items():
        figure.canvas.draw()
        (legend,) = figure.legends
        inside, whole = legend.get_window_extent(), figure.bbox
        assert inside.x0 >= 0 and inside.x1 <= whole.x1, name
        assert figure.axes[0].get_window_extent().height > 100, "nor do they push the axes away"


def test_missing_measures_are_a_dash(tmp_path: Path) -> None:
    fleet = Fleet([vehicle(0, latency={}, gini={}, first_ns=-(10**30))], files=1)
    text = write_files(tmp_path, [], "Bare", fleet=fleet).read_text()
    for column in COLUMNS:
        assert f'data-name="{column.group} {column.name}"' in text
    assert text.count(">–</td>") == 7
    assert "<img" not in text
    assert rows(tmp_path, "vehicles.csv")[0]["first"] == "impossible time"


def test_many_events_are_cut_and_said(tmp_path: Path) -> None:
    from toolkit.report.fleet import Event

    events = [Event("car", number, "drift", f"message {number}") for number in range(EVENTS_ON_PAGE + 5)]
    text = write_files(tmp_path, [], "Events", fleet=Fleet([vehicle(0)], events, files=1)).read_text()
    assert text.count("<strong>car</strong> drift") == EVENTS_ON_PAGE
    assert f"data/events.csv holds {EVENTS_ON_PAGE + 5}" in text
    assert len(rows(tmp_path, "events.csv")) == EVENTS_ON_PAGE + 5


def test_the_same_logs_give_the_same_page(tmp_path: Path) -> None:
    fleet = Fleet([vehicle(0), vehicle(1)], files=2)
    pages = [write_files(tmp_path / name, [], "Same", fleet=fleet).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_desktop_figures_come_from_audits_and_manifests(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_bundle / "manifest.json", tmp_path / "manifest.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"something": "else"}')
    ((digest, manifest),) = manifests([tmp_path, tmp_path / "none"]).items()
    road = {"ig": RoadBaseline(percentages=(10.0,), morf=(0.5,), lerf=(0.9,), areas=(0.1, 0.3))}
    known = msgspec.structs.replace(manifest, baselines=Baselines(gini={"vg": (0.1, 0.2, 0.3, 0.4)}, road=road))
    curves = RoadCurves((10.0,), (0.5,), (0.9,), 0.5, 0.9)
    audited = Summary(
        name="short",
        digest=digest,
        audited=8,
        latency={"classify": Latency(1.0, 2.0, 3.0)},
        gini={"vg": Estimate(0.25), "ig": Estimate(0.6)},
        road={"vg": curves},
    )
    alone = desktops([], {digest: known})[digest]
    areas = {"ig": Spread(2, pytest.approx(0.2), 0.1, 0.1, 0.3)}
    assert alone == Desktop(manifest.name, {"vg": Spread(4, 0.25, 0.1, 0.2, 0.4)}, areas)
    both = desktops([audited], {digest: known})[digest]
    assert (both.name, both.latency, both.road["vg"].mean) == ("short", 1.0, pytest.approx(0.2))
    assert (both.gini["vg"].p95, both.gini["ig"].mean) == (0.4, 0.6), "the manifest alone has the distribution"
    fleet = Fleet([vehicle(0, digest=digest)], desktops={digest: both}, files=1)
    assert "0.25,0.1,0.4" in fleet_files(fleet)["vehicles_gini.csv"]
