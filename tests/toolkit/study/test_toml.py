"""Lines of keys and tables in TOML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from toolkit.study.toml import TomlFile, read_toml

TEXT = """\
# a comment
title = "x"
[[many]]
a = 1
[many.inner]
b = 2
[[many]]
a = 3
[one.two]
"c d" = { e = 4 }
"""


@pytest.fixture
def file(tmp_path: Path) -> TomlFile:
    path = tmp_path / "file.toml"
    path.write_text(TEXT)
    return read_toml(path)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("title",), 2),
        (("many", 0), 3),
        (("many", 0, "a"), 4),
        (("many", 0, "inner", "b"), 6),
        (("many", 1, "a"), 8),
        (("many", 1, "unwritten"), 7),
        (("one", "two", "c d", "e"), 10),
    ],
)
def test_lines(file: TomlFile, where: tuple[str | int, ...], line: int) -> None:
    assert str(file.error(where, "bad")) == f"{file.path}:{line}: bad"


def test_a_place_without_a_line_names_the_file(file: TomlFile) -> None:
    assert str(file.error(("elsewhere",), "bad")) == f"{file.path}: bad"


@pytest.mark.parametrize(
    ("content", "words"), [(b"a = ", "is no TOML"), (b"\xff", "not UTF-8"), (None, "cannot be read")]
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "file.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_toml(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert read_toml(path).values["title"] == "x"
