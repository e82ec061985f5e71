"""docs/vehicle_loop.md says what the code does and what was measured."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

from edge_runtime.log.buffer import Group
from edge_runtime.loop.keeper import FULLY_LOGGED
from edge_runtime.loop.ladder import STEPS, LadderOptions
from edge_runtime.manifest import DriftOptions
from toolkit.cli.loop import DEFAULTS

REPOSITORY = Path(__file__).resolve().parents[3]
DOCUMENT = (REPOSITORY / "docs" / "vehicle_loop.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table whose head line begins so."""
    lines = DOCUMENT[DOCUMENT.index(head) :].splitlines()[2:]
    table = lines[: next(n for n, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_ladder_has_the_documented_steps() -> None:
    assert [int(step) for step, _ in rows("| step |")] == list(range(len(STEPS)))
    added = [sorted(later.without - earlier.without) for earlier, later in itertools.pairwise(STEPS)]
    words = [text for _, text in rows("| step |")[1:]]
    for kinds, text in zip(added, words, strict=True):
        assert all(kind in text.lower() for kind in kinds), (kinds, text)


def test_the_ladders_numbers() -> None:
    options = LadderOptions()
    for text in (
        f"for {options.hold_seconds:g} s on end the p95",
        f"(newest {options.samples} frames)",
        f"for {options.relief_seconds:g} s on end the p95 was at most {options.relief:.0%}".replace("%", " %"),
        f"more than {options.cooler_celsius:g} degrees below hot",
        f"up to {options.longest_relief_seconds:g} s",
    ):
        assert text in " ".join(DOCUMENT.split()), text


def test_the_drift_options_and_their_defaults() -> None:
    found = {name.strip("`"): float(default) for name, default, _ in rows("| `drift` |")}
    assert found == {name: getattr(DriftOptions(), name) for name in DriftOptions.__struct_fields__}
    values = round(DriftOptions().stride / DriftOptions().threshold)
    assert values == 2_000_000
    assert "one in two million values" in " ".join(DOCUMENT.split())


def test_the_schedule_of_a_replay_and_the_events() -> None:
    assert DEFAULTS.schedule.costly_every == 10
    assert "with every tenth VG" in DOCUMENT
    assert f"logged up to {FULLY_LOGGED} times" in DOCUMENT
    assert f"({Group().buffer:,}, then the oldest" in DOCUMENT


def test_the_figures_are_those_recorded() -> None:
    recorded = json.loads((REPOSITORY / "benchmarks" / "results" / "drift.json").read_text())
    expected = [
        [
            row["phase"],
            f"{row['means']['confidence']:.2f}",
            f"{row['means']['gini vg']:.2f}",
            ", ".join(row["drifted"]) or "-",
        ]
        for row in recorded["rows"]
    ]
    assert rows("| images |") == expected
    assert re.search(rf"replays\s+{recorded['images_per_phase']} test images", DOCUMENT)
    told = [event["measure"] for row in recorded["rows"] for event in row["events"]]
    assert told and all(row["drifted"] for row in recorded["rows"] if "usual" not in row["phase"])
