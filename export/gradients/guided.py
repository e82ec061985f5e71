"""Guided Backpropagation: the gradient rules with another rule for ReLU (Springenberg et al. 2015, section 3.4)."""

from __future__ import annotations

from collections import ChainMap

from export.gradients.builder import Op
from export.gradients.registry import RULES, Rule
from export.gradients.walk import Rules


def guided_relu(op: Op, g: str) -> str:
    """max(g, 0) where the output is positive; 0 elsewhere."""
    return op.unary("Relu", op.masked(g, op.output))


# A table for `add_input_gradient(model, rules=GUIDED)`. The first mapping wins; every other operator keeps its rule.
GUIDED: Rules = ChainMap({"Relu": Rule("Relu", guided_relu)}, RULES)
