"""A run and a bundle, small and quickly trained, made by the command line itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.cli import main

Outcome = tuple[int, str, str]
Roadworthy = Callable[..., Outcome]
TINY = "rendered?train=132&validation=44&test=66"


def call(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def one_line(outcome: Outcome) -> str:
    """Return the error of a refused command: exit code 2, nothing on stdout, one line on stderr."""
    code, out, error = outcome
    assert (code, out, len(error.splitlines())) == (2, "", 1), (code, out, error)
    assert error.startswith("roadworthy: error: ")
    return error


@pytest.fixture
def roadworthy(capsys: pytest.CaptureFixture[str]) -> Roadworthy:
    """Run the command line in this process; returns exit code, stdout, stderr."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = call(*arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on few rendered signs; read only."""
    out = tmp_path_factory.mktemp("runs") / "natural"
    assert call("train", "--data", TINY, "--width", 0.25, "--epochs", 2, "--device", "cpu", "--out", out) == 0
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle; read only."""
    out = tmp_path_factory.mktemp("bundles") / "natural"
    assert call("export", tiny_run, "--data", TINY, "--audit-images", 8, "--no-baselines", "--out", out) == 0
    return out
