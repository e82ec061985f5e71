"""The table of gradient rules: one small named function per ONNX operator, registered where it is defined.

A rule receives the :class:`~export.gradients.builder.Op` it differentiates and the gradient ``g`` of the logits with
respect to that node's first output. It emits nodes through ``op`` and returns one entry for each input of the node: the
name of the gradient with respect to that input, a :class:`~export.gradients.builder.Phases`, or None where the input
has no gradient. A single value stands for the first input alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from export.gradients.builder import Op, Phases

    Grad = str | Phases | None
    RuleFunction = Callable[[Op, str], Grad | Sequence[Grad]]

AnyRule = TypeVar("AnyRule", bound="RuleFunction")


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    ``broadcast`` says that the inputs broadcast against each other, so that the walk sums each gradient back to its
    input's shape; ``constant_inputs`` are those through which no gradient is defined, so that they must not depend on
    the image; ``all_outputs`` says that the rule reads the gradients of every output (``op.grads``), not only of the
    first.
    """

    operator: str
    function: RuleFunction
    broadcast: bool = False
    constant_inputs: tuple[int, ...] = ()
    all_outputs: bool = False


RULES: dict[str, Rule] = {}

# Operators through which no gradient flows, by definition and not by omission: their output is piecewise constant in
# the image or does not depend on its values. Everything in neither table is an error.
NO_GRADIENT: dict[str, str] = {
    "ArgMax": "piecewise constant",
    "ArgMin": "piecewise constant",
    "BitShift": "integer",
    "BitwiseAnd": "integer",
    "BitwiseNot": "integer",
    "BitwiseOr": "integer",
    "BitwiseXor": "integer",
    "Ceil": "piecewise constant",
    "ConstantOfShape": "depends on shapes alone",
    "Equal": "boolean",
    "EyeLike": "depends on shapes alone",
    "Floor": "piecewise constant",
    "Greater": "boolean",
    "GreaterOrEqual": "boolean",
    "Hardmax": "piecewise constant",
    "IsInf": "boolean",
    "IsNaN": "boolean",
    "Less": "boolean",
    "LessOrEqual": "boolean",
    "Not": "boolean",
    "And": "boolean",
    "Or": "boolean",
    "Xor": "boolean",
    "NonZero": "piecewise constant",
    "OneHot": "piecewise constant",
    "Round": "piecewise constant",
    "Shape": "depends on shapes alone",
    "Sign": "piecewise constant",
    "Size": "depends on shapes alone",
}


def rule(
    *operators: str, broadcast: bool = False, constant_inputs: tuple[int, ...] = (), all_outputs: bool = False
) -> Callable[[AnyRule], AnyRule]:
    """Register the decorated function as the gradient rule of ``operators``; a duplicate raises at import."""

    def register(function: AnyRule) -> AnyRule:
        for operator in operators:
            if operator in RULES or operator in NO_GRADIENT:
                raise ValueError(f"operator {operator} has two gradient rules")
            RULES[operator] = Rule(operator, function, broadcast, constant_inputs, all_outputs)
        return function

    return register
