"""Text that comes from elsewhere, made fit for logs, JSON and terminals."""

from __future__ import annotations

import os


def encodable(name: str | os.PathLike[str]) -> str:
    """Return a file's name as text that UTF-8 can hold: bytes that are none become ``\\xe9``; others stay as they are.

    Names on disk are bytes; Python carries those that are no UTF-8 as lone surrogates, which no JSON can hold.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return text on one line that no terminal obeys: what cannot be printed is spelled out, ``\\x1b``."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
