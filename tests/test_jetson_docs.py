"""docs/jetson.md's commands, run in order as they stand there: desktop, vehicle and back, in one folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.bundle import open_bundle
from edge_runtime.install.places import SYSTEM
from edge_runtime.trust.store import VARIABLE
from export.tensorrt_support import NEWEST_OPSET
from tests.docker.rules import FOLDER
from tests.edge_runtime.trust.publisher import PASSPHRASE
from tests.test_readme import QUICK, REPLACED
from toolkit.cli import main

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "jetson.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(900)  # what takes a minute on a quiet machine

STATE = str(SYSTEM.parent)
FAST = {**QUICK, "export": ["--no-baselines", *QUICK["export"]]}


def commands() -> list[tuple[list[str], str | None]]:
    """Return the arguments of every ``roadworthy`` command, and where its output goes if that is a file."""
    found: list[tuple[list[str], str | None]] = []
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL):
        for line in block.splitlines():
            command, _, out = line.partition(" > ")
            assert command.startswith("roadworthy "), line
            found.append((shlex.split(command, comments=True)[1:], out or None))
    return found


def run(arguments: list[str]) -> str:
    """Run a command that must succeed and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code, arguments
    return printed.getvalue()


def prepare(arguments: list[str], folder: Path) -> None:
    """Do what the page says in words before this command, and a reader with his own hands."""
    if arguments[:2] == ["trust", "install"]:  # scp
        shutil.copytree("bundles/fp16", "fp16")
        shutil.copy("keys/1.root.json", "1.root.json")
    if "frames" in arguments:
        image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Path("frames").mkdir()
        for number in range(12):
            Image.fromarray(np.roll(image, number, axis=1)).save(f"frames/{number:02}.png")
    if arguments[:2] == ["log", "copy"]:  # what the service has written meanwhile
        (folder / "log").mkdir()
        for path in Path(".").glob("trial.db*"):
            shutil.copy(path, folder / "log" / path.name.replace("trial", "audit"))
    if "--rollback" in arguments:  # the next bundle has come
        shutil.rmtree("fp16")
        run(["sign", "bundles/natural", "--keys", "keys"])
        shutil.copytree("bundles/natural", "fp16")
        run(["install", "fp16"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder in which all commands have run, and what each printed."""
    folder, state = tmp_path_factory.mktemp("jetson"), tmp_path_factory.mktemp("state")
    printed: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv(VARIABLE, raising=False)
        patch.setenv("ROADWORTHY_PASSPHRASE", PASSPHRASE)
        patch.setattr("os.geteuid", lambda: 0)
        patch.setattr("edge_runtime.install.places.SYSTEM", state / "bundles")
        patch.setattr("edge_runtime.trust.store.SYSTEM", state / "trust")
        for arguments, out in commands():
            prepare(arguments, state)
            replaced = [REPLACED.get(word, word).replace(STATE, str(state)) for word in arguments]
            quick = FAST.get(arguments[0], []) if "--source" not in arguments else ["--no-live", "--threads", "1"]
            text = run([*replaced, *([] if arguments[0] == "service" else quick)])
            printed[" ".join(arguments)] = text
            if out:
                Path(out).write_text(text)
        yield folder, printed


def test_the_bundle_is_signed_installed_and_verified(place: tuple[Path, dict[str, str]]) -> None:
    _, printed = place
    assert "version 1, root version 1" in printed["sign bundles/fp16 --keys keys"]
    assert "signatures: version 1" in printed["verify fp16"]
    assert printed["install --list"].startswith("current   000001-")
    assert "version 1" in printed["install --rollback"]


def test_it_is_audited_and_its_log_comes_home(place: tuple[Path, dict[str, str]]) -> None:
    folder, _ = place
    assert open_bundle(folder / "bundles/fp16").manifest.precisions.keys() == {"fp16"}
    assert (folder / "results/orin/audit.json").is_file()
    page = (folder / "report/report.html").read_text()
    assert "orin-1" in page


def test_the_service_runs_what_was_installed(place: tuple[Path, dict[str, str]]) -> None:
    unit = (place[0] / "roadworthy.service").read_text()
    assert f"audit {SYSTEM}/current --source camera:0" in unit
    assert "--precision fp16 --provider auto --vehicle orin-1\n" in unit


def test_the_table_names_the_versions_that_graphs_are_held_to() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| [\d.]+ \| ([\d.]+) \| [^|]+ \| (3\.\d+) \| `(jetson-jp\d)`", DOCUMENT, re.MULTILINE
    )
    assert {".".join(version.split(".")[:2]) for _, version, _, _ in rows} == set(NEWEST_OPSET)
    for jetpack, _, python, image in rows:
        assert image == f"jetson-jp{jetpack[0]}"
        assert python == {"6": "3.10", "7": "3.12"}[jetpack[0]]
        assert (FOLDER / f"{image}.Dockerfile").is_file()


def test_what_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", DOCUMENT):
        assert (FOLDER.parent / "docs" / link).exists(), link


def test_every_message_is_one_of_the_code() -> None:
    table = DOCUMENT.partition("## When something is refused")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 4
    repository = Path(__file__).resolve().parents[1]
    source = "".join(
        path.read_text() for each in ("edge_runtime", "toolkit") for path in (repository / each).rglob("*.py")
    )
    for message in messages:
        if "matching distribution" in message:  # pip's
            continue
        words = re.escape(message).replace(r"cuda", r"\{\w+\}").replace("onnxruntime", r"(onnxruntime|\{\w+\})")
        assert re.search(words, source), message
