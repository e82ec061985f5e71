"""README's commands, run as they stand there, on a data set and settings small enough for a test."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.bundle import open_bundle
from toolkit.cli import COMMANDS, main

README = Path(__file__).resolve().parent.parent / "README.md"
# What a user replaces, and what makes each command quick; the commands themselves stay README's.
REPLACED = {
    "gtsrb:PATH": "rendered?train=132&validation=44&test=66",
    "IMAGE": "sign.png",
    "MODEL.onnx": "model.onnx",
    "LABELS.txt": "labels.txt",
}
# docs/trust.md, docs/install.md, docs/service.md and docs/tensorrt.md show these, and their own tests run them.
TRUST = {"engine", "install", "keys", "service", "sign", "trust"}
QUICK = {
    "train": ["--epochs", "1", "--device", "cpu"],
    "prune": ["--epochs", "1", "--device", "cpu"],
    "export": ["--audit-images", "6"],
    "calibrate": [
        *("--samples", "66", "--images", "66", "--explainer", "vg", "--no-cache"),
        *("--max-accuracy-drop", "1", "--min-rank-correlation", "-1", "--max-road-auc-increase", "1"),
    ],
    "audit": ["--examples", "2"],
    "bench": ["--iterations", "3", "--warmup", "1", "--cold-starts", "1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def replaced(text: str) -> str:
    for word, value in REPLACED.items():
        text = text.replace(word, value)
    return text


def commands() -> list[list[str]]:
    """Return the arguments of every ``roadworthy`` command in README's shell blocks, in order."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(replaced(line), comments=True)[1:] for line in lines if line.startswith("roadworthy ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name, in which all of them have run."""
    folder = tmp_path_factory.mktemp("readme")
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "sign.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in commands():
            if "--from-onnx" in arguments:
                shutil.copy("bundles/natural/classifier.onnx", "model.onnx")
                Path("labels.txt").write_text("\n".join(open_bundle("bundles/natural").labels))
            with pytest.raises(SystemExit) as stop:
                main([*arguments, *QUICK.get(arguments[0], [])])
            assert not stop.value.code, arguments
    return folder


def test_commands_leave_what_readme_says(workplace: Path) -> None:
    for name in ("runs/natural", "runs/channel"):
        assert (workplace / name / "model.safetensors").is_file()
    assert open_bundle(workplace / "bundles/channel").manifest.variant is not None
    assert open_bundle(workplace / "bundles/mine").manifest.variant is None
    assert (workplace / "results/natural/audit.json").is_file()
    with Image.open(workplace / "explained.png") as picture:
        assert picture.width > 300
    page = (workplace / "report/report.html").read_text()
    assert ">natural</td>" in page
    assert ">channel</td>" in page
    assert "data:image/svg+xml;base64," in page


def test_removed_channels_make_the_bundle_smaller(workplace: Path) -> None:
    natural, channel = (open_bundle(workplace / "bundles" / name).manifest for name in ("natural", "channel"))
    assert natural.macs and channel.macs and channel.macs < 0.5 * natural.macs
    assert channel.files["classifier.onnx"].size < 0.5 * natural.files["classifier.onnx"].size


def test_python_example_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    (code,) = blocks("python")
    exec(replaced(code), {})
    assert "(1, 3, 32, 32)" in capsys.readouterr().out


def test_every_command_of_the_table_exists() -> None:
    listed = set(re.findall(r"^\| `roadworthy (\w+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == set(COMMANDS)


def test_step_by_step_shows_nearly_every_command() -> None:
    assert (
        set(COMMANDS) - {arguments[0] for arguments in commands()}
        <= {"demo", "log", "select", "serve", "study"} | TRUST
    )
