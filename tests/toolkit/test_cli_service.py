"""The unit by command."""

from __future__ import annotations

from tests.toolkit.conftest import Roadworthy, one_line


def test_options_reach_the_unit(roadworthy: Roadworthy) -> None:
    arguments = [
        "--source",
        "camera:0",
        "--watchdog",
        30,
        "--user",
        "driver",
        "--",
        "--crop",
        "0.5",
        "--provider",
        "cuda",
    ]
    code, out, _ = roadworthy("service", *arguments)
    assert code == 0
    assert "WatchdogSec=30\n" in out
    assert "User=driver\n" in out
    assert "--source camera:0 --log /var/lib/roadworthy/log/audit.db --crop 0.5 --provider cuda\n" in out
    assert out.endswith("WantedBy=multi-user.target\n")


def test_what_is_refused(roadworthy: Roadworthy) -> None:
    assert "user 'a b' is no name" in one_line(roadworthy("service", "--source", "x", "--user", "a b"))
    assert "Missing option '--source'" in one_line(roadworthy("service"))
