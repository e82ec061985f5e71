"""docs/docker.md names what is there; its commands are ones that script, compose file and roadworthy know."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks import image
from tests.docker.rules import DOCKERFILES, FOLDER, REPOSITORY, parse
from tests.docker.test_compose import JETSON, SERVICES
from toolkit.cli import COMMANDS, cli

DOCUMENT = (REPOSITORY / "docs" / "docker.md").read_text(encoding="utf-8")


def lines(language: str) -> list[list[str]]:
    """Return the words of every line in the document's blocks of a language; continued lines are one."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    texts = [text.replace("\\\n", " ") for found, text in blocks if found == language]
    return [shlex.split(line) for text in texts for line in text.splitlines()]


def check_command(arguments: list[str]) -> None:
    """Let roadworthy parse a command without running it."""
    context = cli.make_context("roadworthy", [], resilient_parsing=True)
    module, _, attribute = COMMANDS[arguments[0]].target.partition(":")
    command, rest = getattr(importlib.import_module(module), attribute), arguments[1:]
    while hasattr(command, "commands"):
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
        command, rest = command.commands[rest[0]], rest[1:]
    with command.make_context(command.name, rest, parent=context) as made:
        assert made.params


@pytest.mark.parametrize("words", lines("sh"), ids=" ".join)
def test_the_builds_are_ones(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "docker/build.sh":
        command = [words[0], "--engine", "buildah", "--dry-run", *words[1:]]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert f"docker/{words[-1]}.Dockerfile" in done.stdout
    else:
        assert words[:3] == ["python", "-m", "benchmarks.image"]
        measured: list[str] = []

        def measure(options: object, name: str) -> dict[str, object]:
            measured.append(name)
            return {"within_bar": True, "checks": {}}

        monkeypatch.setattr(image, "measure", measure)
        assert image.main([*words[3:], "--no-record"]) == 0
        assert measured


@pytest.mark.parametrize("words", [words for words in lines("") if words[:2] == ["docker", "compose"]], ids=" ".join)
def test_the_compose_commands_fit_the_services(words: list[str]) -> None:
    verb, rest = words[2], words[3:]
    if verb == "run":
        assert rest[:2] == ["--rm", "tool"]
        check_command(rest[2:])
    elif verb == "exec":
        at = rest.index("loop")
        check_command(rest[at + 2 :])
        assert rest[at + 1] == "roadworthy"
    elif verb == "cp":
        assert rest[0].startswith("loop:/var/lib/roadworthy/log/")
    else:
        assert verb in ("up", "ps", "restart")


def test_the_desktops_command_is_one() -> None:
    (words,) = [words for words in lines("") if words[:2] == ["docker", "run"]]
    check_command(words[words.index("roadworthy:desktop") + 1 :])


def test_every_variable_is_explained() -> None:
    files = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("compose*.yaml"))
    used = dict(re.findall(r"\$\{(\w+):[-?]([^}]*)\}", files))
    rows = dict(re.findall(r"^\| `(ROADWORTHY_\w+)` \| ([^|]*) \|", DOCUMENT, re.MULTILINE))
    assert set(rows) == set(used)
    for name, cell in rows.items():
        defaults = set(re.findall(rf"\$\{{{name}:-([^}}]*)\}}", files))
        assert defaults == set(re.findall(r"`([^`\s]+)`", cell)), name
    assert SERVICES and JETSON


def test_the_bases_are_the_dockerfiles() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| [^|]+ \| `([^`]+)` \|", DOCUMENT, re.MULTILINE))
    bases = {path.name.removesuffix(".Dockerfile"): parse(path.read_text()).arguments["BASE"] for path in DOCKERFILES}
    assert rows == bases


def test_what_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", DOCUMENT):
        assert (Path(REPOSITORY / "docs") / link).exists(), link
