"""Write ``docs/gradient_operators.md`` from the table of rules: ``python -m export.gradients.docs``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import onnx

from export.gradients import GUIDED, NO_GRADIENT, RULES
from export.gradients.registry import Rule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gradient_operators.md"

HEAD = """\
# Operators with a gradient

Made from the table of rules by `python -m export.gradients.docs`; change the rules, not this page.

`g` is the gradient of the logit with respect to the operator's output, `x`, `a`, `b` are its inputs and `y` its output.
A rule gives the gradient with respect to each input; for inputs that broadcast, the walk sums it back to the input's
shape. Constant inputs must not depend on the image. Shapes are those of images of a fixed size; the batch stays
dynamic. ONNX's own functions that are not listed are written out by their definition first. Every other operator on the
way from the image to the logits is an error that names it.
"""


def page() -> str:
    """Return the whole page."""
    kinds: dict[str, list[Rule]] = {}
    for rule in RULES.values():
        kinds.setdefault(rule.function.__module__, []).append(rule)
    sections = [HEAD, *(_section(module, rules) for module, rules in sorted(kinds.items())), _guided(), _no_gradient()]
    return "\n".join(sections)


def _section(module: str, rules: Iterable[Rule]) -> str:
    rows = [(f"`{rule.operator}`", formula(rule), conditions(rule)) for rule in rules]
    return f"## {_title(module)}\n\n" + _table(("operator", "gradient", "conditions"), sorted(rows))


def _guided() -> str:
    changed = [(f"`{name}`", formula(GUIDED[name])) for name in RULES if GUIDED[name] is not RULES[name]]
    head = "## Guided Backpropagation\n\n`add_input_gradient(model, rules=GUIDED)` takes other rules for these:\n\n"
    return head + _table(("operator", "instead of the gradient"), changed)


def _no_gradient() -> str:
    rows = sorted((f"`{name}`", reason) for name, reason in NO_GRADIENT.items())
    head = "## No gradient\n\nNothing flows back through these, by definition:\n\n"
    return head + _table(("operator", "why"), rows)


def formula(rule: Rule) -> str:
    """Return the first line of a rule's docstring, which is its formula."""
    lines = (inspect.getdoc(rule.function) or "").splitlines()
    if not lines:
        raise ValueError(f"the rule of {rule.operator} has no docstring; its first line is the formula")
    return lines[0].rstrip(".")


def conditions(rule: Rule) -> str:
    """Return what a rule asks of its node, in words."""
    words = []
    if rule.broadcast:
        words.append("inputs broadcast")
    if rule.constant_inputs:
        names = [f"`{name}`" for name in _input_names(rule)]
        words.append(f"constant: {', '.join(names)}")
    if rule.all_outputs:
        words.append("every output")
    return "; ".join(words)


def _input_names(rule: Rule) -> list[str]:
    """Return the names that the ONNX specification gives to a rule's constant inputs."""
    inputs = onnx.defs.get_schema(rule.operator).inputs
    return [inputs[index].name for index in rule.constant_inputs if index < len(inputs)]


def _title(module: str) -> str:
    """Return the subject of a module of rules: its docstring up to the first full stop or colon."""
    text = inspect.getdoc(sys.modules[module]) or ""
    subject = text.replace("\n", " ").split(".")[0].split(":")[0]
    return subject.removeprefix("Gradient rules of ").capitalize()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
