"""The compose files hold to the rules, and their commands are the command line's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_runtime.serve.server import DEFAULT_PORT, TOKEN_VARIABLE
from tests.docker.rules import FOLDER, PROBE, parse, service_offences
from toolkit.cli import COMMANDS, cli

COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
JETSON = yaml.safe_load((FOLDER / "compose.jetson.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGE = parse((FOLDER / "edge-cpu.Dockerfile").read_text(encoding="utf-8"))


def filled(text: str) -> str:
    """Put a variable's default in its place."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", SERVICES)
def test_it_holds_to_the_rules(name: str) -> None:
    assert service_offences(name, SERVICES[name]) == []


@pytest.mark.parametrize(
    ("changes", "offence"),
    [
        ({"read_only": False}, "root can be written"),
        ({"cap_drop": []}, "has capabilities"),
        ({"cap_add": ["SYS_ADMIN"]}, "has capabilities"),
        ({"security_opt": []}, "may gain privileges"),
        ({"privileged": True}, "shares the host's name spaces"),
        ({"network_mode": "host"}, "shares the host's name spaces"),
        ({"user": "0:0"}, "runs as root"),
        ({"mem_limit": None}, "memory has no bound"),
        ({"restart": "no"}, "does not come back"),
        ({"ports": ["8080:8080"]}, "open to everybody"),
    ],
)
def test_the_rules_find_what_breaks_them(changes: dict[str, Any], offence: str) -> None:
    assert any(offence in each for each in service_offences("page", {**SERVICES["page"], **changes}))


@pytest.mark.parametrize("name", ["loop", "page"])
def test_its_command_is_one(name: str) -> None:
    command, *arguments = map(filled, SERVICES[name]["command"])
    module, _, attribute = COMMANDS[command].target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    context = found.make_context(command, arguments, parent=cli.make_context("roadworthy", [], resilient_parsing=True))
    assert context.params


def test_the_loop_gets_the_camera_and_nothing_of_the_network() -> None:
    loop = SERVICES["loop"]
    assert [filled(each) for each in loop["devices"]] == ["/dev/video0:/dev/video0"]
    assert loop["network_mode"] == "none"
    assert "ports" not in loop
    assert loop["healthcheck"]["test"] == ["CMD", *PROBE, "--loop"]


def test_the_page_sees_the_live_folder_alone_and_wants_a_token() -> None:
    page = SERVICES["page"]
    assert page["volumes"] == ["live:/run/roadworthy:ro"]
    assert page["environment"][TOKEN_VARIABLE].startswith(f"${{{TOKEN_VARIABLE}:?")
    assert [filled(each) for each in page["ports"]] == [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]
    assert "healthcheck" not in page  # the image's own: /healthz


def test_one_volume_outlives_the_containers() -> None:
    (volume,) = [each.value for each in IMAGE.stages[-1] if each.name == "VOLUME"]
    assert COMPOSE["volumes"]["state"] is None
    for name in ("loop", "tool"):
        assert f"state:{volume}" in SERVICES[name]["volumes"]
    used = {each.split(":")[0] for service in SERVICES.values() for each in service["volumes"] if each[0] != "$"}
    assert used == set(COMPOSE["volumes"])


def test_the_users_are_the_images() -> None:
    commands = [part.split() for each in IMAGE.stages[-1] if each.name == "RUN" for part in each.value.split("&&")]
    users = {words[words.index("--uid") + 1]: words[-1] for words in commands if words[0] == "useradd"}
    assert set(users.values()) == {"roadworthy", "installer"}
    (user,) = [each.value for each in IMAGE.stages[-1] if each.name == "USER"]
    uid = user.partition(":")[0]
    assert users[uid] == "roadworthy"
    assert f"uid={uid},gid={uid}" in COMPOSE["volumes"]["live"]["driver_opts"]["o"]
    assert users[SERVICES["tool"]["user"].partition(":")[0]] == "installer"


def test_the_jetsons_file_changes_services_that_exist() -> None:
    assert set(JETSON["services"]) <= set(SERVICES)
    built = {path.name.removesuffix(".Dockerfile") for path in Path(FOLDER).glob("*.Dockerfile")}
    for service in [*SERVICES.values(), *JETSON["services"].values()]:
        name, _, tag = filled(service["image"]).partition(":")
        assert name == "roadworthy"
        assert any(tag in (target, f"{target}-camera") for target in built), tag
    assert JETSON["services"]["loop"]["runtime"] == "nvidia"
