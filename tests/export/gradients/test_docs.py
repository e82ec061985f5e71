"""``docs/gradient_operators.md`` says what the table of rules says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from export.gradients import NO_GRADIENT, RULES
from export.gradients.docs import PAGE, conditions, formula, page
from export.gradients.registry import Rule


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: run `python -m export.gradients.docs`"


def test_every_operator_has_one_line() -> None:
    lines = page().splitlines()
    for name in [*RULES, *NO_GRADIENT]:
        rows = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert len(rows) == (2 if name == "Relu" else 1)  # ReLU also has its rule of Guided Backpropagation


@pytest.mark.parametrize("name", RULES)
def test_every_rule_states_its_formula(name: str) -> None:
    assert formula(RULES[name])


def test_conditions_name_the_inputs_as_the_specification_does() -> None:
    assert conditions(RULES["Add"]) == "inputs broadcast"
    assert conditions(RULES["ReduceSum"]) == "constant: `axes`"
    assert conditions(RULES["Clip"]) == "constant: `min`, `max`"
    assert "every output" in conditions(RULES["Split"])


def test_a_rule_without_a_formula() -> None:
    with pytest.raises(ValueError, match="rule of Sinh has no docstring"):
        formula(Rule("Sinh", lambda op, g: g))


def test_the_command_writes_the_page() -> None:
    before = PAGE.read_bytes()
    try:
        subprocess.run([sys.executable, "-m", "export.gradients.docs"], check=True, cwd=PAGE.parents[1], timeout=120)
        assert PAGE.read_text(encoding="utf-8") == page()
    finally:
        PAGE.write_bytes(before)
