"""docs/select.md against the command, and its example against the recorded search."""

from __future__ import annotations

import json
import re
from pathlib import Path

from toolkit.cli.select import INFEASIBLE, select
from toolkit.select.measures import OBJECTIVES
from toolkit.select.recommend import SPAN
from toolkit.select.space import METHODS, STEP
from toolkit.select.trial import TIMINGS

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (REPOSITORY / "docs" / "select.md").read_text(encoding="utf-8")
RECORDED = REPOSITORY / "benchmarks" / "results" / "select.json"


def test_every_option_exists_and_every_limit_is_told() -> None:
    known = {option for parameter in select.params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert named <= known, named - known
    assert {option for option in known if option.startswith(("--max-", "--min-"))} <= named


def test_numbers_and_names_are_the_codes() -> None:
    for name in METHODS:
        assert f"`{name}`" in TEXT
    importances, _ = METHODS["channel"].importances, METHODS["channel"].scopes
    assert ", ".join(importances) in TEXT
    assert f"in steps of {STEP}" in TEXT and f"the exit code is {INFEASIBLE}" in TEXT
    steps = {each.name: each.resolution for each in OBJECTIVES}
    assert steps["gini"] == steps["road_auc"]
    said = f"{steps['latency_ratio']:.0%} of the unpruned network's latency, {100 * steps['accuracy']:g} % of accuracy"
    assert said.replace("2%", "2 %") in " ".join(TEXT.split()) and f"{steps['gini']:g} of Gini and of ROAD" in TEXT
    assert SPAN == 10 and "ten steps" in TEXT and TIMINGS == 3 and "at most twice" in TEXT


def test_the_example_is_what_was_recorded() -> None:
    recorded = json.loads(RECORDED.read_text())
    (example,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    lines = [line.strip() for line in example.splitlines() if line.startswith("  ")]
    assert lines == recorded["reason"]
    assert recorded["search"]["data"] == "gtsrb" and f"{len(recorded['trials']) - 1} candidates" in TEXT
