"""Small graphs in ONNX's textual syntax, each around one operator, for the tests of the gradient rules.

``x`` is the image. A weight given as a tuple is random of that shape, a list is int64, a number or array is itself.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

SMALL = (3, 6, 5)
WIDE = (16, 5, 4)  # from 16 channels on the rules keep to operators of the blocked layout


@dataclass(frozen=True)
class Case:
    """``text`` computes ``y``, of which random combinations are the logits, or ``logits`` itself."""

    text: str
    shape: tuple[int, ...] = SMALL
    since: int = 13
    until: int = 99
    weights: dict[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> tuple[object, ...]:
        """What decides which form of which rule the last line meets: operator, attributes given, inputs, channels."""
        node = parser.parse_node(self.text.strip().splitlines()[-1])
        return node.op_type, *(attribute.name for attribute in node.attribute), len(node.input), self.shape[0] >= 16

    def __str__(self) -> str:
        return f"{self.text.strip().splitlines()[-1].partition('=')[2].strip()}-{'x'.join(map(str, self.shape))}"


def case(text: str, shape: tuple[int, ...] = SMALL, *, since: int = 13, until: int = 99, **weights: Any) -> Case:
    return Case(text, shape, since, until, weights)


def weight(name: str, value: Any, seed: int) -> onnx.TensorProto:
    """Return an initializer by the conventions of this module."""
    if isinstance(value, tuple):
        array = np.random.default_rng(seed).standard_normal(value).astype(np.float32) * 0.5
    elif isinstance(value, list):
        array = np.asarray(value, np.int64)
    elif isinstance(value, float):
        array = np.asarray(value, np.float32)
    else:
        array = np.asarray(value)
    return numpy_helper.from_array(array, name)


def model(c: Case, opset: int, head: int | None = None, classes: int = 4) -> onnx.ModelProto:
    """Return the case's graph from image ``x`` to logits; ``head`` is how many elements y has for one image.

    Without it the graph ends at ``flat``, the elements of y.
    """
    nodes = [parser.parse_node(line) for line in c.text.strip().splitlines()]
    seed = zlib.crc32(c.text.encode())
    tensors = [weight(name, value, seed + i) for i, (name, value) in enumerate(c.weights.items())]
    last = nodes[-1].output[0]
    if last != "logits":
        last = "flat"
        nodes.append(helper.make_node("Flatten", ["y"], [last]))
    if last != "logits" and head is not None:
        last = "logits"
        nodes.append(helper.make_node("Gemm", ["flat", "head"], [last]))
        tensors.append(weight("head", (head, classes), seed))
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *c.shape])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
