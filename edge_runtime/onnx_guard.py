"""What a model's bytes must not hold before an engine sees them, found without the onnx package.

A bundle's hashes say that a file is the one the manifest names, not that it is harmless. Two ONNX features are of no
use in a bundle and dangerous in an engine: external data (weights read from any path the file names) and local
functions (nested ones keep the engine busy for minutes with two kilobytes).

Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: onnx.proto, ModelProto and TensorProto.
"""

from __future__ import annotations

import re

from edge_runtime.errors import BundleError

MODEL_GRAPH = 7
MODEL_FUNCTIONS = 25
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# The entry {"location": path} of TensorProto.external_data: field 1, length 8, in any spelling of the two varints.
BEFORE_LOCATION = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)\Z")
LONGEST_PREFIX = 20


def refuse_unsafe(model: bytes, name: str) -> None:
    """Raise BundleError when ``model`` is not a serialised ONNX model, or uses external data or local functions."""
    fields = top_level_fields(model, name)
    if MODEL_GRAPH not in fields:
        raise BundleError(f"{name} is not an ONNX model (it holds no graph); export it again")
    if MODEL_FUNCTIONS in fields:
        raise BundleError(f"{name} holds local functions, which a bundle must not; inline them and export again")
    if has_external_data(model):
        raise BundleError(f"{name} keeps weights in external files; export it again as one file")


def top_level_fields(message: bytes, name: str) -> set[int]:
    """Return the field numbers of a protobuf message's outermost level; lengths are skipped, never followed."""
    fields: set[int] = set()
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position, name)
        wire_type = tag & 7
        fields.add(tag >> 3)
        if wire_type == VARINT:
            _, position = read_varint(message, position, name)
        elif wire_type == LENGTH:
            length, position = read_varint(message, position, name)
            position += length
        elif wire_type in (FIXED64, FIXED32):
            position += 8 if wire_type == FIXED64 else 4
        else:
            raise not_onnx(name)
    if position != len(message):
        raise not_onnx(name)
    return fields


def read_varint(message: bytes, position: int, name: str) -> tuple[int, int]:
    """Return (value, position after it) of the varint at ``position``."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise not_onnx(name)


def has_external_data(model: bytes) -> bool:
    """Say whether an external-data entry occurs anywhere, be it in an initializer, an attribute or a subgraph."""
    position = model.find(b"location")
    while position >= 0:
        if BEFORE_LOCATION.search(model[max(0, position - LONGEST_PREFIX) : position]):
            return True
        position = model.find(b"location", position + 1)
    return False


def not_onnx(name: str) -> BundleError:
    return BundleError(f"{name} is not an ONNX model (damaged or truncated); export it again")
