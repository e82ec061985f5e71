"""Tables of results with known answers, beside the paper's values."""

from __future__ import annotations

import csv
import io
import re

import msgspec
import pytest

from tests.toolkit.study.synthetic import STUDY, result
from toolkit.study import tables
from toolkit.study.grid import Grid
from toolkit.study.results import CellResult
from toolkit.study.schema import Strategy


def results() -> list[CellResult]:
    found = []
    for seed in (0, 1):
        found.append(result("natural", "none", seed, correct="1" * 99 + "0", robust=0.5))
        found.append(result("adv", "none", seed, correct="1" * (96 - 2 * seed) + "0" * (4 + 2 * seed), robust=0.75))
        found.append(result("l1", "pre", seed, gini=(0.4 - 0.1 * seed, 0.5), norm=(1.0, 2.0)))
        found.append(result("l1", "post", seed, morf=("11000", "10000")))
    return found


def made() -> dict[str, tables.Table]:
    return {f"{table.number}-{table.measure}": table for table in tables.all_tables(Grid.of(STUDY, results()))}


def test_accuracy_beside_the_paper() -> None:
    table = made()["1-accuracy"]
    assert table.columns == ("natural", "adv", "l1")
    assert [name for name, _ in table.rows] == ["pre-train", "post-train, not fine-tuned"]
    cells = [[table.cell(entry) for entry in row] for _, row in table.rows]
    # Standard deviation of 96 and 94: sqrt(2) = 1.4.
    assert cells[0] == ["99.0 ± 0.0 (97.6)", "95.0 ± 1.4 (97.5)", "75.0 ± 0.0 (94.5)"]
    assert cells[1][2] == "75.0 ± 0.0 (94.8)"


def test_gini_is_the_difference_to_the_natural_network_of_the_seed() -> None:
    table = made()["3-gini difference"]
    assert table.columns == ("adv", "l1")
    (_, before), (_, after) = table.rows
    # Means .45 and .40 against .55: -.10 and -.15.
    assert before[1].ours == pytest.approx((-0.1, -0.15))
    assert table.cell(before[1]) == "-0.125 ± 0.035 (-0.04)"
    assert table.cell(before[0]) == "+0.000 ± 0.000 (-0.03)"
    assert after[1].paper == 0.0


def test_further_tables() -> None:
    found = made()
    robust = found["None-robust accuracy"]
    assert [robust.cell(entry) for entry in robust.rows[0][1]] == ["50.0 ± 0.0", "75.0 ± 0.0", "–"]
    norm = dict(found["None-norm ratio"].rows)["VG, pre-train"]
    assert norm[2].mean == pytest.approx(0.5)
    area = dict(found["None-road area"].rows)["VG MoRF, post-train, not fine-tuned"]
    assert area[0].mean == 1
    # Curve 1, .5, 0, 0, 0 over 1, 21, 41, 61, 91: (15 + 5) / 90.
    assert area[2].mean == pytest.approx(20 / 90)


def test_missing_cells_are_dashes_and_the_rest_stays() -> None:
    kept = [each for each in results() if each.strategy != "adv"]
    table = next(iter(tables.all_tables(Grid.of(STUDY, kept))))
    assert table.cell(table.rows[0][1][1]) == "– (97.5)"


def test_stronger_attacks_have_their_own_table() -> None:
    (subject,) = STUDY.subjects
    strategies = (
        *STUDY.strategies,
        Strategy(name="strong", eps=0.1),
        Strategy(name="g", pruning="global", timing=("post-tuned",)),
    )
    study = msgspec.structs.replace(
        STUDY, subjects=(msgspec.structs.replace(subject, compare="lisa-resnet"),), strategies=strategies
    )
    found = {table.number: table for table in tables.all_tables(Grid.of(study, results()))}
    assert found[5].columns == ("l1", "strong", "g")
    assert [name for name, _ in found[5].rows] == ["VG, post-train, fine-tuned"]
    assert [entry.paper for entry in found[5].rows[0][1]] == [0.0, -0.01, 0.0]
    assert found[7].columns == ("adv", "l1", "strong", "g")
    assert found[7].rows[0][1][2].paper is None


def test_csv_has_a_line_for_each_place() -> None:
    all_tables = list(made().values())
    rows = list(csv.DictReader(io.StringIO(tables.csv(all_tables))))
    assert len(rows) == sum(len(table.rows) * len(table.columns) for table in all_tables)
    (row,) = [each for each in rows if (each["table"], each["row"], each["column"]) == ("1", "pre-train", "adv")]
    assert (row["seeds"], float(row["mean"]), row["paper"]) == ("2", 95.0, "97.5")


def test_markdown_rows_are_as_wide_as_their_header() -> None:
    text = tables.markdown(list(made().values()), "Title")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
