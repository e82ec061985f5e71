"""TOML files whose errors name a line; the parser of the standard library keeps no positions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-]+)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"^\s*([\w\-]+|\"[^\"]*\"|'[^']*')\s*(?:\.[\w\-.]+\s*)?=")
PLACE = re.compile(r"\$(\.\w+|\[(?:\d+|\.\.\.)\])+")
Where = tuple[str | int, ...]


@dataclass(frozen=True)
class TomlFile:
    """A parsed file: its values, and the line (from 1) of every key and table by path, as far as they stand alone."""

    path: Path
    values: dict[str, Any]
    lines: dict[Where, int]

    def error(self, where: Sequence[str | int], message: str) -> InputError:
        """Return an error at the line of ``where``, or of the closest table around it."""
        place = tuple(where)
        while place and place not in self.lines:
            place = place[:-1]
        line = f":{self.lines[place]}" if place else ""
        return InputError(f"{self.path}{line}: {message}")

    def wrong_type(self, error: msgspec.ValidationError) -> InputError:
        """Return the error of a value of a wrong type, or of a missing one, at its line."""
        message = str(error)
        found = PLACE.search(message)
        if found is None:
            return self.error((), message)
        parts = re.findall(r"\.(\w+)|\[(\d+)\]", found[0])
        where = tuple(name if name else int(index) for name, index in parts)
        text = message[: found.start()].removesuffix(" - at `")
        return self.error(where, f"{where[-1] if where else 'file'}: {text[:1].lower()}{text[1:]}")


def read_toml(path: Path) -> TomlFile:
    """Read a TOML file; raises InputError where it cannot be read or is no TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin files with a mark
        return TomlFile(path, tomllib.loads(text), _lines(text))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a TOML file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error


def _lines(text: str) -> dict[Where, int]:
    """Find the lines of tables and keys; keys of inline tables share the line of theirs."""
    lines: dict[Where, int] = {}
    counts: dict[Where, int] = {}
    table: Where = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            table = ()
            *parents, last = header[2].split(".")
            for part in parents:
                table = (*table, part)
                table = (*table, counts[table]) if table in counts else table
            table = (*table, last)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif key := KEY.match(line):
            lines.setdefault((*table, key[1].strip("\"'")), number)
    return lines
