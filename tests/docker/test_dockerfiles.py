"""The Dockerfiles hold to the rules, the rules find what breaks them, and what the images name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.install import places
from edge_runtime.live import default_live_folder
from edge_runtime.trust import store
from tests.docker.rules import DOCKERFILES, FOLDER, REPOSITORY, context, offences, parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = {"desktop", "edge-cpu", "jetson-jp6", "jetson-jp7"}
GOOD = (FOLDER / "edge-cpu.Dockerfile").read_text(encoding="utf-8")
SERVICES = [path for path in DOCKERFILES if path.stem != "desktop"]


def name_of(path: Path) -> str:
    return path.name


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_there_is_one_for_each_target() -> None:
    assert {path.name.removesuffix(".Dockerfile") for path in DOCKERFILES} == NAMES


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_it_holds_to_the_rules(path: Path) -> None:
    assert offences(read(path)) == []


@pytest.mark.parametrize(
    ("old", "new", "offence"),
    [
        ("USER 10001:10001", "USER root", "ends as root"),
        ("USER 10001:10001", "USER roadworthy", "ends as root"),
        ("USER 10001:10001", "USER 0:0", "ends as root"),
        ("WORKDIR /var/lib/roadworthy", "RUN touch /x", "changes the image after USER"),
        ("BASE=debian:13.6-slim", "BASE=debian", "without a tag that stays"),
        ("BASE=debian:13.6-slim", "BASE=debian:latest", "without a tag that stays"),
        ("BASE=debian:13.6-slim", "BASE=mirror.example/debian:13.6", "comes from mirror.example"),
        ("BASE=debian:13.6-slim", "BASE=nvcr.io/nvidia/tensorrt:26.05-py3-igpu", "-igpu"),
        ("FROM ${BASE}\n", "FROM debian:13.6\n", "is no build argument"),
        ("edge_runtime.serve.probe", "edge_runtime.serve.prob", "has no health check"),
        ("VOLUME /var/lib/roadworthy\n", "", "has not one volume"),
        ("COPY toolkit toolkit", "COPY toolkits toolkits", "no such file"),
        ("COPY toolkit toolkit", "COPY tests tests", ".dockerignore leaves it out"),
        ("COPY toolkit toolkit", "ADD toolkit toolkit", "uses ADD"),
        ("COPY --from=build /opt/roadworthy /opt/roadworthy", "COPY --from=build /source /source", "brings sources"),
        ("--no-install-recommends python3 ", "--no-install-recommends gcc python3 ", "brings a compiler"),
        ("--no-cache-dir ", "", "keeps a cache"),
        ("--constraint constraints.txt ", "", "does not pin"),
        ("    && rm -rf /var/lib/apt/lists/*\n", "", "keeps apt's lists"),
        ("--no-install-recommends gcc", "gcc", "installs what nobody asked for"),
        ('CMD ["serve"]\n', "", "says neither"),
    ],
)
def test_the_rules_find_what_breaks_them(old: str, new: str, offence: str) -> None:
    assert old in GOOD
    broken = GOOD.replace(old, new)
    assert any(offence in each for each in offences(broken)), offences(broken)


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_every_extra_exists(path: Path) -> None:
    project = tomllib.loads(read(REPOSITORY / "pyproject.toml"))["project"]
    extras = set(parse(read(path)).arguments["EXTRAS"].split(","))
    assert extras <= set(project["optional-dependencies"])
    assert "serve" in extras


def test_the_context_holds_every_package_and_nothing_else() -> None:
    project = tomllib.loads(read(REPOSITORY / "pyproject.toml"))
    packages = {each.rstrip("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {"pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE"}
    assert context() == packages | files
    for path in DOCKERFILES:
        copied = {
            source
            for each in parse(read(path)).instructions
            if each.name == "COPY" and not each.value.startswith("--from=")
            for source in each.value.split()[:-1]
        }
        assert copied == packages | files, path.name


@pytest.mark.parametrize("path", SERVICES, ids=name_of)
def test_the_environment_leads_to_the_systems_folders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs as nobody in particular finds bundles, trust and live folder where the unit's loop does."""
    for name, value in parse(read(path)).environment.items():
        if name.startswith("XDG_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv(store.VARIABLE, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 10001)
    assert places.default_folder() == places.SYSTEM
    assert store.default_store().folder == store.SYSTEM
    assert default_live_folder() == Path("/run/roadworthy")


@pytest.mark.parametrize(("name", "marker"), [("jetson-jp6", "<"), ("jetson-jp7", ">=")])
def test_the_jetsons_engine_is_the_pinned_one(name: str, marker: str) -> None:
    """Python 3.10 on JetPack 6, 3.12 on JetPack 7."""
    constraints = read(REPOSITORY / "constraints.txt")
    (pinned,) = re.findall(rf'^(onnxruntime==\S+); python_version {marker} "3.11"$', constraints, re.MULTILINE)
    assert parse(read(FOLDER / f"{name}.Dockerfile")).arguments["ONNXRUNTIME"] == pinned


@pytest.mark.parametrize(("name", "cuda"), [("jetson-jp6", "12"), ("jetson-jp7", "13")])
def test_the_jetsons_bindings_are_of_its_cuda(name: str, cuda: str) -> None:
    bindings = parse(read(FOLDER / f"{name}.Dockerfile")).arguments["CUDA_BINDINGS"]
    assert re.fullmatch(rf"cuda-bindings=={cuda}\.\d+\.\d+", bindings)


def test_the_devices_images_differ_in_little() -> None:
    """One way to be non-root, one layout of folders, one health check."""
    final = {path.name: parse(read(path)).stages[-1] for path in SERVICES}
    kept: Callable[[str], list[str]] = lambda name: [  # noqa: E731
        f"{each.name} {each.value}" for each in final[name] if each.name not in ("ENV", "FROM")
    ]
    assert len({tuple(kept(name)) for name in final}) == 1


def test_no_host_of_anybodys_own_is_named() -> None:
    for path in [*FOLDER.iterdir(), REPOSITORY / ".dockerignore"]:
        text = read(path)
        assert "://" not in text, path.name
        assert not re.search(r"index-url|find-links|trusted-host|PIP_\w+=", text), path.name


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{shutil.os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
