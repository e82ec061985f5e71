"""Einsum equations in the letters that every engine reads."""

from __future__ import annotations

import string

import onnx


def lower_case_equations(graph: onnx.GraphProto) -> None:
    """Write every Einsum equation with lower-case letters and without spaces.

    TensorRT's parser reads no others, and PyTorch exports what the model's author wrote. Equations of more than 26
    letters stay as they are.
    """
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Einsum" and attribute.name == "equation":
                attribute.s = lower_case(attribute.s.decode()).encode()


def lower_case(equation: str) -> str:
    """Return ``equation`` in the first letters of the alphabet, in the order that an implicit output follows."""
    letters = sorted({letter for letter in equation if letter.isalpha()})
    bare = equation.replace(" ", "")
    if all(letter.islower() for letter in letters) or len(letters) > len(string.ascii_lowercase):
        return bare
    return bare.translate(str.maketrans("".join(letters), string.ascii_lowercase[: len(letters)]))
