"""Equations in other letters mean the same."""

from __future__ import annotations

import string

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.einsum import lower_case, lower_case_equations


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("bij,bjk->bik", "bij,bjk->bik"),
        ("B G H I D, B G H J D -> B G H I J", "acdeb,acdfb->acdef"),
        ("...iD,jD->...ij", "...ba,ca->...bc"),
        ("i,j->", "i,j->"),
        ("Ba,aC", "ac,cb"),
    ],
)
def test_letters(equation: str, expected: str) -> None:
    assert lower_case(equation) == expected


@pytest.mark.parametrize("equation", ["B I D, B J D -> B I J", "Zx,xA", "...Q,Q->...", "aB,Bc"])
def test_the_result_is_the_same(equation: str) -> None:
    generator = np.random.default_rng(0)
    sizes = {letter: 2 + index for index, letter in enumerate(string.ascii_letters)}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    shapes = [[3] * (3 if "." in term else 0) + [sizes[letter] for letter in term if letter != "."] for term in terms]
    operands = [generator.standard_normal(shape) for shape in shapes]
    assert np.allclose(np.einsum(equation, *operands), np.einsum(lower_case(equation), *operands))


def test_too_many_letters_stay() -> None:
    equation = string.ascii_letters[:30] + "->" + string.ascii_letters[:30]
    assert lower_case(equation) == equation


def test_only_einsum_nodes_change() -> None:
    nodes = [
        helper.make_node("Einsum", ["x", "x"], ["y"], equation="A B, A B -> A"),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph(nodes, "g", [value], [onnx.ValueInfoProto(name="z")])
    lower_case_equations(graph)
    assert graph.node[0].attribute[0].s == b"ab,ab->a"
    assert graph.node[1] == nodes[1]
