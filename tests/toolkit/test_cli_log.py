"""roadworthy log: what it prints, its exit codes, and that every help text has an example."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from edge_runtime.errors import RoadworthyError
from edge_runtime.log import EventRecord, verify
from edge_runtime.log.anchor_file import anchor_path
from tests.edge_runtime.log_tools import fill, open_log
from toolkit.cli.log import cli

KEY = b"a key"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(KEY)
    return fill(tmp_path / "audit.log", 30, 100, key=KEY)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def failure(*arguments: object) -> str:
    """Return the message of an expected failure; the command line prints it as one line and exits with 2."""
    error = run(*arguments).exception
    assert isinstance(error, RoadworthyError), error
    assert error.exit_code == 2
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("command", ["", "show", "verify", "export"])
def test_every_help_has_an_example(command: str) -> None:
    result = run(*filter(None, [command, "--help"]))
    assert result.exit_code == 0
    assert f"roadworthy log {command}".rstrip() in result.output.partition("Examples:")[2]


def test_show(log: Path) -> None:
    lines = run("show", log, "--last", 2).output.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[0] == "30"
    for part in ("frame  ", "frame_id=frame-29", "label=stop", "explainers.vg.gini=0.5", "saliency=100 bytes"):
        assert part in lines[1]


def test_names_in_a_log_do_not_command_the_terminal(tmp_path: Path) -> None:
    """Files and topics may have any name, also one that clears the screen or begins a line of its own."""
    with open_log(tmp_path / "audit.log") as log:
        log.append(EventRecord(name="frame-failed", message="a\x1b[2Jb\n30 frame  frame_id=forged"))
    (line,) = run("show", tmp_path / "audit.log").output.splitlines()
    assert "a\\x1b[2Jb\\n30 frame" in line


def test_show_as_json(log: Path) -> None:
    lines = [json.loads(line) for line in run("show", log, "--json", "--kind", "frame").output.splitlines()]
    assert len(lines) == 20
    assert (lines[-1]["sequence"], lines[-1]["frame_id"], lines[-1]["saliency"]) == (30, "frame-29", 100)
    assert lines[-1]["probability"] == 1 / 30


def test_verify(log: Path) -> None:
    head = verify(log).head
    output = run("verify", log, "--key", log.parent / "key", "--anchor", head).output
    assert "30 records verify, checked against: head, anchor, seal" in output
    assert f"head: {head}" in output
    report = json.loads(run("verify", log, "--json").output)
    assert (report["ok"], report["records"], report["head"], report["problem"]) == (True, 30, str(head), None)


def test_verify_names_the_first_bad_record(log: Path) -> None:
    db = apsw.Connection(str(log))
    db.execute("DELETE FROM record WHERE sequence = 12")
    db.close()
    assert failure("verify", log) == f"{log}: record 12 is missing"
    result = run("verify", log, "--json")
    assert json.loads(result.output)["sequence"] == 12
    assert isinstance(result.exception, RoadworthyError)


def test_verify_with_a_wrong_anchor_or_key(log: Path) -> None:
    anchor_path(log).unlink()
    assert "its end is missing" in failure("verify", log, "--anchor", "31:" + "0" * 64)
    assert "is no anchor" in failure("verify", log, "--anchor", "31")
    other = log.parent / "other"
    other.write_bytes(b"another key")
    assert "seal does not fit" in failure("verify", log, "--key", other)
    assert "does not exist; give the file of the key" in failure("verify", log, "--key", log.parent / "none")


def test_export(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "drive.csv"
    assert run("export", log, out).output.startswith(f"{out}: 30 records, ")
    assert "already exists" in failure("export", log, out)
    assert run("export", log, out, "--force").exit_code == 0
    assert "unknown export format" in failure("export", log, tmp_path / "drive.xls")


def test_export_of_an_altered_log_needs_consent(log: Path, tmp_path: Path) -> None:
    db = apsw.Connection(str(log))
    db.execute("UPDATE record SET body = replace(body, 'stop', 'yield') WHERE sequence = 4")
    db.close()
    out = tmp_path / "drive.csv"
    assert "record 4 was altered" in failure("export", log, out)
    assert not out.exists()
    assert run("export", log, out, "--unverified").exit_code == 0
    assert "yield" in out.read_text()


def test_bad_arguments(tmp_path: Path) -> None:
    assert "does not exist; give the log file" in failure("show", tmp_path / "none.log")
    assert "does not exist; give the log file" in failure("verify", tmp_path / "none.log")
    assert "unknown kind of record 'fram'; nearest: frame" in failure("show", fill(tmp_path / "a", 1), "--kind", "fram")
