"""The image's benchmark counts bytes rightly, its checks can fail, and the page says what was recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.common import RESULTS
from benchmarks.image import BAR_MB, LARGEST, parts, size
from benchmarks.image_checks import CHECKS, PREAMBLE, Check, check_image

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "docker.md").read_text(encoding="utf-8")
RECORD = json.loads((RESULTS / "image.json").read_text(encoding="utf-8"))


class HereImage:
    """Runs a check's script on this machine."""

    def run(self, script: str, user: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_hard_links_count_once_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 1000)
    os.link(tmp_path / "deep" / "file", tmp_path / "same")
    (tmp_path / "link").symlink_to("same")
    assert size(tmp_path) == 1000 + len("same")


def test_a_package_and_its_libraries_are_one_part(tmp_path: Path) -> None:
    packages = tmp_path / "opt/roadworthy/lib/python3.13/site-packages"
    for number in range(LARGEST + 2):
        (packages / f"p{number}").mkdir(parents=True)
        (packages / f"p{number}" / "code.py").write_bytes(b"x" * 100_000 * (number + 1))
    (packages / "p0.libs").mkdir()
    (packages / "p0.libs" / "a.so").write_bytes(b"x" * 9_000_000)
    found = parts(tmp_path)
    assert next(iter(found.items())) == ("p0", 9.1)
    assert found["others"] == 0.5  # p1 and p2


@pytest.mark.parametrize(
    ("script", "passes"),
    [("true", True), ("false; true", False), ("fails false; true", True), ("fails true; true", False)],
)
def test_a_check_passes_only_if_all_of_it_does(script: str, passes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_image(HereImage(), [Check("it", script)]) == {"it": passes}
    assert capsys.readouterr().out.startswith("passed  it" if passes else "FAILED  it")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_script_is_one(check: Check) -> None:
    done = subprocess.run(["sh", "-n", "-c", PREAMBLE + check.script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_record_is_of_these_checks_and_within_the_bar() -> None:
    for row in RECORD["rows"]:
        assert row["checks"] == {check.name: True for check in CHECKS}, row["image"]
    assert RECORD["rows"][0]["image"] == "roadworthy:edge-cpu"
    assert RECORD["rows"][0]["added_mb"] < BAR_MB


def test_the_page_says_what_was_recorded() -> None:
    shown = re.findall(r"^\| `(roadworthy:\S+)` \| (\d+) MB \| (\d+) MB \|", DOCUMENT, re.MULTILINE)
    recorded = [(row["image"], f"{row['base_mb']:.0f}", f"{row['added_mb']:.0f}") for row in RECORD["rows"]]
    assert shown == recorded
