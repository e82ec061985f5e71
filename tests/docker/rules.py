"""What every Dockerfile and the compose file must hold to, as functions that list the offences."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
COMPILERS = {"gcc", "g++", "clang", "build-essential", "python3-dev", "libc6-dev", "make"}
# Where public images come from. A mirror of somebody's own has no place here.
IMAGE_HOSTS = {"", "nvcr.io"}
PINNED = re.compile(r"(?P<name>[a-z0-9][a-z0-9._/-]*):(?P<tag>[\w.-]*\d[\w.-]*)(@sha256:[0-9a-f]{64})?")
PROBE = ["python", "-m", "edge_runtime.serve.probe"]


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``value`` in one line."""

    name: str
    value: str


@dataclass(frozen=True)
class Dockerfile:
    """``arguments`` are the defaults of the build arguments; each stage begins with its FROM."""

    arguments: Mapping[str, str]
    stages: Sequence[Sequence[Instruction]]

    @property
    def instructions(self) -> list[Instruction]:
        return [each for stage in self.stages for each in stage]

    @property
    def environment(self) -> dict[str, str]:
        """The final stage's ENV."""
        words = [word for each in self.stages[-1] if each.name == "ENV" for word in shlex.split(each.value)]
        return dict(word.split("=", 1) for word in words)


def parse(text: str) -> Dockerfile:
    """Split a Dockerfile into its stages."""
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    arguments: dict[str, str] = {}
    stages: list[list[Instruction]] = []
    for found in parser.structure:
        each = Instruction(found["instruction"], found["value"])
        if each.name == "COMMENT":
            continue
        if each.name == "ARG":
            name, _, default = each.value.partition("=")
            arguments[name] = default
        if each.name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(each)
    return Dockerfile(arguments, stages)


def offences(text: str) -> list[str]:
    """List what is wrong with a Dockerfile."""
    return list(_offences(parse(text)))


def _offences(file: Dockerfile) -> Iterator[str]:
    yield from _base_offences(file)
    yield from _final_offences(file.stages[-1])
    yield from _copy_offences(file)
    yield from _install_offences(file)


def _base_offences(file: Dockerfile) -> Iterator[str]:
    if len(file.stages) < 2:
        yield "has one stage; what builds must not travel"
    for stage in file.stages:
        image = stage[0].value.split()[0]
        if image != "${BASE}":
            yield f"FROM {image} is no build argument"
    base = file.arguments.get("BASE", "")
    pinned = PINNED.fullmatch(base)
    if pinned is None or "latest" in base:
        yield f"BASE is {base!r}, without a tag that stays"
    else:
        host = pinned["name"].partition("/")[0]
        if "." in host and host not in IMAGE_HOSTS:
            yield f"BASE comes from {host}"
    if "igpu" in base:
        yield "BASE is an -igpu image, which fails from JetPack 7.2 on"


def _final_offences(stage: Sequence[Instruction]) -> Iterator[str]:
    names = [each.name for each in stage]
    users = [each.value for each in stage if each.name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield "ends as root, or as a user without numbers, which a rule against root cannot judge"
    elif {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :]):
        yield "changes the image after USER"
    checks = [each.value for each in stage if each.name == "HEALTHCHECK"]
    if len(checks) != 1 or not (checks[0] == "NONE" or checks[0].endswith(f"CMD {_json(PROBE)}")):
        yield f"has no health check, or one that does not run {' '.join(PROBE)}"
    if "ENTRYPOINT" not in names or "CMD" not in names:
        yield "says neither what it is nor what it does by default"
    if names.count("VOLUME") != 1:
        yield "has not one volume"
    for each in stage:
        if each.name == "RUN" and COMPILERS & set(each.value.split()):
            yield "brings a compiler into the final stage"
        if each.name == "COPY" and each.value != "--from=build /opt/roadworthy /opt/roadworthy":
            yield f"COPY {each.value} brings sources into the final stage"


def _copy_offences(file: Dockerfile) -> Iterator[str]:
    for each in file.instructions:
        if each.name == "ADD":
            yield "uses ADD where COPY does"
        if each.name == "COPY" and not each.value.startswith("--from="):
            for source in each.value.split()[:-1]:
                if not (REPOSITORY / source).exists():
                    yield f"COPY {source}: no such file"
                elif source not in context():
                    yield f"COPY {source}: .dockerignore leaves it out"


def _install_offences(file: Dockerfile) -> Iterator[str]:
    for each in file.instructions:
        if each.name != "RUN":
            continue
        for command in each.value.split("&&"):
            words = command.split()
            if "pip" in command and "install" in words and "uninstall" not in words:
                if "--constraint" not in words:
                    yield f"does not pin: {command.strip()}"
                if "--no-cache-dir" not in words:
                    yield f"keeps a cache: {command.strip()}"
            if "apt-get install" in command and "--no-install-recommends" not in words:
                yield f"installs what nobody asked for: {command.strip()}"
        if "apt-get install" in each.value and "rm -rf /var/lib/apt/lists/*" not in each.value:
            yield "keeps apt's lists"


def context() -> set[str]:
    """Return what .dockerignore lets into a build."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def service_offences(name: str, service: Mapping[str, Any]) -> list[str]:
    """List what is wrong with a service of the compose file."""
    found = []
    if service.get("read_only") is not True:
        found.append(f"{name}: the root can be written")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        found.append(f"{name}: it has capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", ()):
        found.append(f"{name}: it may gain privileges")
    if service.get("privileged") or service.get("pid") or service.get("network_mode") == "host":
        found.append(f"{name}: it shares the host's name spaces")
    if str(service.get("user", "10001")).startswith(("0", "root")):
        found.append(f"{name}: it runs as root")
    if not service.get("mem_limit") and name != "tool":
        found.append(f"{name}: its memory has no bound")
    if service.get("restart") != "always" and name != "tool":
        found.append(f"{name}: it does not come back")
    for port in service.get("ports", ()):
        if not re.match(r"\$\{\w+:-127\.0\.0\.1\}:", port):
            found.append(f"{name}: {port} is open to everybody by default")
    return found


def _json(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
