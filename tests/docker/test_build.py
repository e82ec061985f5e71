"""docker/build.sh asks the engine for the right thing; engines of the tests' own say what they were asked."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.rules import FOLDER

SCRIPT = FOLDER / "build.sh"


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which no engine works until a test puts one there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "basename", "dirname", "mktemp", "paste", "rm", "cat", "mkdir", "install", "env"):
        found = shutil.which(tool)
        assert found is not None, tool
        (folder / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add(engines: Path, name: str, log: Path, *, works: bool = True) -> None:
    """Put an engine on the PATH that notes its arguments."""
    lines = (f"#!{shutil.which('bash')}", f'{{ printf "%q " {name} "$@"; echo; }} >> {shlex.quote(str(log))}')
    (engines / name).write_text("\n".join((*lines, "" if works else "exit 1", "")))
    (engines / name).chmod(0o755)


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60
    )


def asked(log: Path) -> list[str]:
    """Return the words of the last thing that an engine was asked."""
    return shlex.split(log.read_text().splitlines()[-1])


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_what_each_engine_is_asked(engines: Path, tmp_path: Path, engine: str) -> None:
    log = tmp_path / "log"
    add(engines, engine, log)
    done = build("--tag", "x:y", "--base", "debian:12", "--arg", "EXTRAS=cpu", "--platform", "linux/arm64", "edge-cpu")
    assert done.returncode == 0, done.stderr
    words = asked(log)
    assert words[0] == engine
    assert words[-1] == "."
    for expected in (
        ["--file", "docker/edge-cpu.Dockerfile"],
        ["--tag", "x:y"],
        ["--build-arg", "EXTRAS=cpu"],
        ["--build-arg", "BASE=debian:12"],
        ["--platform", "linux/arm64"],
        *([] if engine == "docker" else [["--format", "docker"]]),
        *([["--isolation", "chroot"], ["--storage-driver", "vfs"]] if engine == "buildah" else []),
    ):
        assert any(words[at : at + 2] == expected for at in range(len(words))), expected


def test_the_first_engine_that_works_is_taken(engines: Path, tmp_path: Path) -> None:
    """A docker without its service, as on many a computer, is passed over."""
    log = tmp_path / "log"
    add(engines, "docker", tmp_path / "ignored", works=False)
    add(engines, "buildah", log)
    assert build("edge-cpu").returncode == 0
    assert asked(log)[0] == "buildah"


def test_the_mirror_and_its_certificate_come_in_as_secrets(engines: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    add(engines, "docker", log)
    for name in ("pip.conf", "ca.pem"):
        (tmp_path / name).touch()
    assert build("--pip-conf", str(tmp_path / "pip.conf"), "--ca", str(tmp_path / "ca.pem"), "desktop").returncode == 0
    words = asked(log)
    assert [words[at + 1] for at, word in enumerate(words) if word == "--secret"] == [
        f"id=pip,src={tmp_path}/pip.conf",
        f"id=ca,src={tmp_path}/ca.pem",
    ]
    assert build("--ca", str(tmp_path / "ca.pem"), "desktop").returncode == 0
    assert sum(word.startswith("id=") for word in asked(log)) == 2


def test_a_base_from_debootstrap(engines: Path) -> None:
    """--dry-run shows all of it and does nothing."""
    done = build("--bootstrap", "trixie", "--dry-run", "edge-cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("debootstrap --variant=minbase trixie ") for line in lines)
    assert "BASE=localhost/debian:trixie-bootstrap" in shlex.split(lines[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one target"),
        (["edge-cpu", "desktop"], "give one target"),
        (["edge-gpu"], "unknown target 'edge-gpu'; there are: desktop edge-cpu jetson-jp6 jetson-jp7"),
        (["--engine", "kaniko", "edge-cpu"], "unknown engine 'kaniko'"),
        (["--engine", "podman", "edge-cpu"], "podman does not work here"),
        (["edge-cpu"], "no engine works here"),
        (["--tag"], "--tag needs a value"),
        (["--fast", "edge-cpu"], "unknown option --fast"),
        (["--bootstrap", "trixie", "--base", "x:1", "--dry-run", "edge-cpu"], "leave one of the two out"),
        (["--bootstrap", "trixie", "--engine", "docker", "--dry-run", "edge-cpu"], "goes with buildah"),
    ],
)
def test_what_is_refused(engines: Path, arguments: list[str], message: str) -> None:
    done = build(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert message in done.stderr


def test_help_names_every_target() -> None:
    shown = build("--help").stdout
    for path in FOLDER.glob("*.Dockerfile"):
        assert path.name.removesuffix(".Dockerfile") in shown
