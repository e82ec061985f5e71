"""Locks, logs, leftovers, and what counts as a full disk."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from edge_runtime.errors import InputError, RunError
from toolkit import workplace

BUSY = InputError("busy")


def test_the_lock_is_held_once_and_released(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with workplace.alone(folder, BUSY), pytest.raises(InputError, match="busy"), workplace.alone(folder, BUSY):
        pass
    with workplace.alone(folder, BUSY):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file cannot be written"), workplace.alone(tmp_path / "file", BUSY):
        pass


def test_log_file_keeps_records_and_returns_warnings(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "one.log"
    with workplace.log_file(path) as remarks:
        logging.getLogger("toolkit.training").info("an epoch")
        logging.getLogger("toolkit.training").warning("halved")
        logging.getLogger("toolkit").error("stopped")
    logging.getLogger("toolkit").info("after")
    assert remarks == ["halved"]
    kept = path.read_text()
    assert "INFO an epoch" in kept and "ERROR stopped" in kept and "after" not in kept


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".run.new-0123abcd").mkdir()
    (tmp_path / ".run.json.old-0123abcd").write_text("half")
    (tmp_path / ".hidden").write_text("mine")
    workplace.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


@pytest.mark.parametrize(
    ("cause", "full"),
    [
        (OSError(errno.ENOSPC, "no space"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EACCES, "denied"), False),
        (ValueError("disk is full"), False),
    ],
)
def test_a_full_disk_is_known_through_other_errors(cause: Exception, full: bool) -> None:
    try:
        try:
            raise cause
        except Exception as error:
            raise RunError("cannot be written") from error
    except RunError as error:
        assert workplace.disk_full(error) is full


def test_reasons_are_one_line() -> None:
    assert workplace.reason(RunError("a\n  b")) == "a b"
    assert workplace.reason(ZeroDivisionError("by\nzero")) == "ZeroDivisionError: by zero"
