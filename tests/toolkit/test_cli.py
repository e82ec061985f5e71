"""The command line itself: help, hints, one-line errors, exit codes."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

import toolkit.cli as command_line
from edge_runtime.errors import GateError, InputError
from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.cli import COMMANDS, Command, cli, main, require


def test_help_lists_every_command(roadworthy: Roadworthy) -> None:
    code, out, _ = roadworthy("--help")
    assert code == 0
    for name, command in COMMANDS.items():
        assert name in out
        assert command.help.endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(roadworthy: Roadworthy, name: str) -> None:
    code, out, _ = roadworthy(name, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"roadworthy {name}" in out.split("Examples:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name  # type: ignore[attr-defined]


def test_version(roadworthy: Roadworthy) -> None:
    code, out, _ = roadworthy("--version")
    assert (code, out.split()[0]) == (0, "roadworthy,")


def test_unknown_command_names_the_nearest(roadworthy: Roadworthy) -> None:
    assert "unknown command 'verfy'; nearest: verify" in one_line(roadworthy("verfy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "No such option"),
        (["verify"], "Missing argument 'BUNDLE'"),
        (["verify", "b", "--threads", "many"], "'many' is not a valid integer"),
        (["classify", "b"], "Missing argument"),
    ],
)
def test_usage_errors_are_one_line(roadworthy: Roadworthy, arguments: list[str], message: str) -> None:
    error = one_line(roadworthy(*arguments))
    assert message in error
    assert "--help)" in error


def raising(error: BaseException) -> Callable[..., None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("no such thing"), 2), (GateError("worse"), 3), (KeyboardInterrupt(), 130)]
)
def test_exit_codes(roadworthy: Roadworthy, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    monkeypatch.setattr(command_line, "failing", click.command("failing")(raising(error)), raising=False)
    monkeypatch.setitem(COMMANDS, "failing", Command("toolkit.cli:failing", "Fail."))
    found, _, said = roadworthy("failing")
    assert found == code
    assert len(said.strip().splitlines()) == 1  # click itself ends the line on which the terminal wrote ^C
    assert (str(error) or "interrupted") in said


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "failing", click.command("failing")(raising(KeyError("bug"))), raising=False)
    monkeypatch.setitem(COMMANDS, "failing", Command("toolkit.cli:failing", "Fail."))
    with pytest.raises(KeyError):
        main(["failing"])


def test_hint_for_what_is_not_installed() -> None:
    with pytest.raises(InputError, match=r"needs no_such_module, .* pip install 'roadworthy\[desktop\]'"):
        require("train", ["no_such_module"])
    require("train", ["click"])
