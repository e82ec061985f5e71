"""``roadworthy engine``: with a stand-in's engines, and on a machine that has no TensorRT."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import onnx
import pytest

from edge_runtime.backends import opening
from edge_runtime.backends.cache import ENGINE
from edge_runtime.bundle import Bundle
from edge_runtime.manifest import MANIFEST
from tests.conftest import no_tensorrt
from tests.edge_runtime.backends.conftest import Device, device, golden
from tests.edge_runtime.tiny_bundle import TinyNetwork, tiny_files, tiny_network, write_tiny_bundle
from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.cli import COMMANDS
from toolkit.cli.engine import engine as group

__all__ = ["device", "golden"]  # fixtures

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tensorrt.md"


@pytest.fixture(scope="session")
def network() -> TinyNetwork:
    return tiny_network()


def test_build_list_clear(roadworthy: Roadworthy, device: Device, golden: Bundle) -> None:
    code, out, error = roadworthy("engine", "build", golden.path)
    assert code == 0
    assert re.fullmatch(r"(classifier|explainer)\.onnx: built in [\d.]+ s, [\d.]+ MiB", out.splitlines()[0])
    assert "classifier.onnx ..." in error
    assert "there already" in roadworthy("engine", "build", golden.path)[1]
    code, out, _ = roadworthy("engine", "list")
    assert code == 0
    assert out.splitlines()[0].endswith(
        f"2 engines; TensorRT {device.trt.__version__} on Orin (compute capability 8.7)"
    )
    assert out.count("would be loaded") == 2
    assert roadworthy("engine", "clear")[1].strip().endswith("2 engines removed")
    assert "0 engines" in roadworthy("engine", "list")[1]


def test_json(roadworthy: Roadworthy, device: Device, golden: Bundle) -> None:
    built = json.loads(roadworthy("engine", "build", golden.path, "--optimization-level", 5, "--json")[1])
    assert [(row["file"], row["built"]) for row in built] == [("classifier.onnx", True), ("explainer.onnx", True)]
    rows = json.loads(roadworthy("engine", "list", "--json")[1])
    assert {row["record"]["key"]["options"]["optimization_level"] for row in rows} == {5}
    assert {row["record"]["sha256"] for row in rows} == {row["sha256"] for row in built}
    assert json.loads(roadworthy("engine", "clear", "--json")[1]) == {"removed": 2}


def test_stale_and_changed_engines(roadworthy: Roadworthy, device: Device, golden: Bundle) -> None:
    roadworthy("engine", "build", golden.path)
    first = sorted(device.cache.folder.glob(f"*{ENGINE}"))[0]
    first.write_bytes(b"changed")
    assert "not the file that was built" in roadworthy("engine", "list")[1]
    assert "1 engines removed" in roadworthy("engine", "clear", "--stale")[1]
    device.cudart.properties.update(name=b"Thor")
    assert "built on Orin (16 multiprocessors), here is Thor (16)" in roadworthy("engine", "list")[1]
    assert "1 engines removed" in roadworthy("engine", "clear", "--stale")[1]


def test_verify_on_native_engines(roadworthy: Roadworthy, device: Device, golden: Bundle) -> None:
    code, out, _ = roadworthy("verify", golden.path, "--provider", "auto", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["provider"], result["passed_over"], result["same_class"]) == ("tensorrt", [], 4)
    assert result["tolerance"] == {"logits": 0.005, "attribution": 0.02}


@pytest.mark.skipif(no_tensorrt() is None, reason="TensorRT is installed")
def test_without_tensorrt(
    roadworthy: Roadworthy, golden: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for arguments in (("build", golden.path), ("clear", "--stale")):
        assert "package tensorrt cannot be imported" in one_line(roadworthy("engine", *arguments))
    code, out, error = roadworthy("engine", "list")
    assert (code, "0 engines" in out) == (0, True)
    assert "which of them run here is not known: the Python package tensorrt cannot be imported" in error
    assert "0 engines removed" in roadworthy("engine", "clear")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "unknown precision of this bundle 'int8'"),
        (["--optimization-level", "7"], "optimization level is 7; give 0 to 5"),
    ],
)
def test_what_build_refuses(
    roadworthy: Roadworthy, device: Device, golden: Bundle, options: list[str], message: str
) -> None:
    code, out, error = roadworthy("engine", "build", golden.path, *options)
    assert (code, out) == (2, "")
    assert message in error.splitlines()[-1]


def test_check(roadworthy: Roadworthy, golden: Bundle, tmp_path: Path, network: TinyNetwork) -> None:
    code, out, _ = roadworthy("engine", "check", golden.path)
    assert (code, out.count("every node is supported")) == (0, 2)
    files = tiny_files(network)
    model = onnx.load_model_from_string(files["classifier.onnx"])
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Bernoulli"
    files["classifier.onnx"] = model.SerializeToString()
    damaged = write_tiny_bundle(tmp_path / "damaged", files)
    code, out, error = roadworthy("engine", "check", damaged, "--tensorrt", "10.3")
    assert (code, error.count("\n")) == (3, 1)
    assert "TensorRT 10.3 takes not all of classifier.onnx" in error
    assert "Bernoulli" in out
    code, out, _ = roadworthy("engine", "check", damaged, "--json")
    assert [row["refused"] for row in json.loads(out)] == [True, False]
    assert "unknown TensorRT version" in one_line(roadworthy("engine", "check", golden.path, "--tensorrt", "9.9"))


# ---- the page ------------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_pages_commands_run(
    roadworthy: Roadworthy, device: Device, golden: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden.path, "bundles/natural")
    for arguments in commands():
        code, _, error = roadworthy(*arguments)
        assert code == 0, (arguments, error)


def test_the_page_shows_every_subcommand() -> None:
    shown = {arguments[1] for arguments in commands() if arguments[0] == "engine"}
    assert shown == set(group.commands)
    assert "engine" in COMMANDS
    text = DOCUMENT.read_text(encoding="utf-8")
    for option in (option for name in group.commands for option in group.commands[name].params):
        if option.opts[0] in ("--json", "--force", "bundle", "--stale", "--tensorrt", "--precision"):
            continue
        assert f"`{option.opts[0]}`" in text, option.opts[0]
    assert opening.VARIABLE in text and MANIFEST in text
