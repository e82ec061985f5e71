"""docs/pruning.md: its commands exist as they stand, name what the tables hold, and run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from tests.toolkit.conftest import TINY, call
from toolkit import pruning
from toolkit.cli.desktop import prune, train
from toolkit.study.schema import Strategy
from toolkit.study.toml import tomllib

DOCS = Path(__file__).resolve().parents[3] / "docs" / "pruning.md"
TEXT = DOCS.read_text(encoding="utf-8")
COMMANDS = {"train": train, "prune": prune}
# What makes the commands quick enough for a test; the rest is as documented.
QUICK = ["--data", TINY, "--device", "cpu"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines]


def test_every_option_exists() -> None:
    for name, *arguments in commands():
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_every_choice_is_explained() -> None:
    for names in (pruning.METHODS, pruning.IMPORTANCES, pruning.SCOPES, pruning.TARGETS):
        assert all(f"`{name}`" in TEXT or f"--scope {name}" in TEXT for name in names)


def test_the_strategy_is_one() -> None:
    (block,) = blocks("toml")
    (strategy,) = tomllib.loads(block)["strategies"]
    assert msgspec.convert(strategy, Strategy).how("paper").target == "macs"


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, *arguments in commands():
        short = ["--epochs", "2"] if "--fine-tune" not in arguments else []
        assert call(name, *arguments, *QUICK, *short) == 0, arguments
