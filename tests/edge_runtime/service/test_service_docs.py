"""docs/service.md's commands run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.edge_runtime.log_tools import fill
from toolkit.cli import main

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "service.md").read_text(encoding="utf-8")


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "audit.db", 20)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line)[1:])
        assert not stop.value.code, line
    assert "WatchdogSec=10" in capsys.readouterr().out
    assert (tmp_path / "drive.mcap").stat().st_size > 0
    assert (tmp_path / "report" / "report.html").is_file()
