"""Names from elsewhere, made fit for logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.text import encodable, printable


@pytest.mark.parametrize("name", ["plain.png", "straße 標識 ☃.png", "back\\slash", ""])
def test_what_utf8_holds_stays(name: str) -> None:
    assert encodable(name) == name


def test_other_bytes_are_spelled_out() -> None:
    assert encodable(Path(os.fsdecode(b"a\xe9\xff/b"))) == "a\\xe9\\xff/b"
    encodable(os.fsdecode(bytes(range(1, 256)))).encode()


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert printable("straße 標識.png") == "straße 標識.png"
    assert printable("a\x1b[31m\nb\tc\u202e") == "a\\x1b[31m\\nb\\tc\\u202e"
