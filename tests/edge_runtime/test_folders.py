from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import InputError, RunError
from edge_runtime.folders import new_file, new_folder


def write(target: Path, text: str, *, force: bool = False) -> None:
    with new_folder(target, marker="marker", force=force) as folder:
        (folder / "marker").write_text(text)


def test_the_folder_appears_when_the_block_has_succeeded(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with new_folder(target, marker="marker") as folder:
        (folder / "marker").write_text("whole")
        assert not target.exists()
    assert (target / "marker").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["run"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "run", marker="marker"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_without_force(tmp_path: Path) -> None:
    write(tmp_path / "run", "old")
    with (
        pytest.raises(RunError, match="already exists"),
        new_folder(tmp_path / "run", marker="marker", error=RunError),
    ):
        pytest.fail("the block must not run")
    write(tmp_path / "run", "new", force=True)
    assert (tmp_path / "run" / "marker").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failing_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    write(tmp_path / "run", "old")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "run", marker="marker", force=True):
        raise KeyboardInterrupt
    assert (tmp_path / "run" / "marker").read_text() == "old"


def test_force_does_not_delete_a_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no marker"):
        write(tmp_path / "home", "new", force=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_parent_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "run", "x")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "figure"
    with new_file(target) as path:
        path.write_text("whole")
        assert not target.exists()
    with pytest.raises(RuntimeError), new_file(target, force=True) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "whole"
    with pytest.raises(InputError, match="already exists; choose another name or pass --force"), new_file(target):
        pass
    nowhere = tmp_path / "no" / "figure"
    with pytest.raises(RunError, match="cannot be written: No such file"), new_file(nowhere, error=RunError) as path:
        path.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["figure"]
