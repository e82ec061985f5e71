"""The unit holds what it must, escapes what it is given, and systemd takes it."""

from __future__ import annotations

import configparser
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import InputError
from edge_runtime.service.unit import UnitOptions, quoted, unit_text

GOOD = UnitOptions(source="camera:0", program=sys.executable)


def service(text: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser["Service"]


def test_what_the_unit_says() -> None:
    unit = service(unit_text(dataclasses.replace(GOOD, watchdog=30, memory_mib=512, extra=("--crop", "0.5"))))
    assert unit["Type"] == "notify"
    assert unit["WatchdogSec"] == "30"
    assert unit["Restart"] == "always"
    assert unit["MemoryMax"] == "512M"
    assert unit["ExecStart"].endswith(
        "audit /var/lib/roadworthy/bundles/current --source camera:0 --log /var/lib/roadworthy/log/audit.db --crop 0.5"
    )


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("camera:0", "camera:0"),
        ("/a b", '"/a b"'),
        ("50%", "50%%"),
        ("$HOME", '"$$HOME"'),
        ('say "x"', '"say \\"x\\""'),
        ("a\\b", '"a\\\\b"'),
        ("", '""'),
        ("; rm", '"; rm"'),
    ],
)
def test_words_are_escaped(word: str, written: str) -> None:
    assert quoted(word) == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": "a b"}, "user 'a b' is no name"),
        ({"watchdog": 0}, "watchdog is 0"),
        ({"memory_mib": 0}, "memory is 0"),
        ({"cpu_weight": 10001}, "cpu weight is 10001"),
        ({"source": "x\nExecStartPre=/bin/sh"}, "holds control characters"),
        ({"extra": ("a\0",)}, "holds control characters"),
    ],
)
def test_what_no_unit_holds(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        unit_text(dataclasses.replace(GOOD, **changes))


def test_systemd_takes_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "roadworthy.service"
    path.write_text(unit_text(dataclasses.replace(GOOD, user="root")))
    done = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "roadworthy.service" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
