"""The report: one file without network, every number of it in the CSV files, missing measurements shown as missing."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.overlay import METHOD_TITLES
from toolkit.report.figures import heat
from toolkit.report.page import write_files
from toolkit.report.summary import Estimate, Examples, Latency, RoadCurves, Summary
from toolkit.report.tables import COLUMNS

PERCENTAGES = (10.0, 50.0, 90.0)


def summary(name: str, level: float = 0.5) -> Summary:
    generator = np.random.default_rng(0)
    return Summary(
        name=name,
        digest="0123456789abcdef",
        size=1_234_567,
        macs=9_870_000,
        parameters=300_000,
        nonzero_parameters=240_000,
        accuracy=Estimate(0.931, 0.9, 0.95),
        audited=40,
        latency={"classify": Latency(1.25, 1.5, 2.0), "vg": Latency(3.0, 4.0, 5.0)},
        gini={method: Estimate(level, level - 0.1, level + 0.1) for method in METHOD_TITLES},
        gradient_norm={method: Estimate(3.5) for method in METHOD_TITLES},
        road={method: RoadCurves(PERCENTAGES, (0.9, 0.5, 0.1), (0.95, 0.9, 0.5), 0.4, 0.8) for method in METHOD_TITLES},
        examples=Examples(
            generator.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
            {method: generator.random((2, 8, 8), dtype=np.float32) for method in METHOD_TITLES},
            ("stop", "yield"),
            ("stop", "<60 & more>"),
        ),
    )


class Resources(HTMLParser):
    """Collects everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_files(folder, [summary("natural"), summary("<b>l1</b>", 0.6)], "Signs & more", [("device", "a test")])


def test_one_file_without_network(page: Path) -> None:
    text = page.read_text()
    resources = Resources()
    resources.feed(text)
    assert resources.links
    assert all(link.startswith("data:image/") for link in resources.links)
    assert not re.findall(r"url\(|@import|<script", text)


def test_text_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<b>l1</b>" not in text
    assert "&lt;b&gt;l1&lt;/b&gt;" in text
    assert "Signs &amp; more" in text


def test_table_shows_every_column(page: Path) -> None:
    text = page.read_text()
    for column in COLUMNS:
        assert f'data-name="{column.name}"' in text
    for cell in ("93.1%", "1.23 MB", "300 k", "240 k", "9.87 M", "1.25", "0.500", "+0.200"):
        assert f">{cell}</td>" in text


def test_figures_as_png_and_svg(page: Path) -> None:
    folder = page.parent / "figures"
    names = {path.stem for path in folder.iterdir()}
    expected = {"road_vg", "road_ig", "road_sg", "gini", "latency_gini", "latency_road", "saliency_1", "saliency_2"}
    assert names == expected
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 300
        assert "<svg" in (folder / f"{name}.svg").read_text()
    assert page.read_text().count("<img ") == len(names)


def test_data_as_csv(page: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (page.parent / "data" / name).open(newline="") as file:
            return list(csv.DictReader(file))

    assert [row["variant"] for row in rows("variants.csv")] == ["natural", "<b>l1</b>"]
    assert rows("variants.csv")[0]["MACs"] == "9870000"
    assert len(rows("road.csv")) == 2 * len(METHOD_TITLES) * len(PERCENTAGES)
    assert rows("road.csv")[0] == {
        "variant": "natural",
        "explainer": "vg",
        "removed_percent": "10.0",
        "morf_accuracy": "0.9",
        "lerf_accuracy": "0.95",
    }
    assert {row["task"] for row in rows("latency.csv")} == {"classify", "vg"}
    assert rows("gini.csv")[0]["low"] == "0.4"


def test_missing_measurements_are_a_dash_and_no_figure(tmp_path: Path) -> None:
    page = write_files(tmp_path, [Summary(name="bare", digest="0", size=10)], "Bare")
    text = page.read_text()
    assert text.count(">–</td>") == len(COLUMNS) - 1
    assert "<img" not in text
    assert not list((tmp_path / "figures").iterdir())


def test_undefined_gini_is_a_dash(tmp_path: Path) -> None:
    bare = Summary(name="flat", digest="0", size=10, gini={"vg": Estimate(float("nan"))})
    assert "nan" not in write_files(tmp_path, [bare], "Flat").read_text().split("<main>")[1].split("<h2>")[0].lower()


def test_same_measurements_give_the_same_page(page: Path, tmp_path: Path) -> None:
    again = write_files(
        tmp_path, [summary("natural"), summary("<b>l1</b>", 0.6)], "Signs & more", [("device", "a test")]
    )
    assert again.read_bytes() == page.read_bytes()


def test_heat_is_scaled_and_survives_an_empty_map() -> None:
    values = heat(np.array([[-4.0, 0.0], [1.0, 2.0]], np.float32))
    assert values.min() == 0
    assert values.max() == 1
    assert not heat(np.zeros((4, 4), np.float32)).any()
