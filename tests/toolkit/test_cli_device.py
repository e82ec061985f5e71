"""Verify, classify, explain, audit and bench by command; and what they say of a bundle that somebody changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.audit import AuditResult
from edge_runtime.benchmark import BenchmarkResult
from edge_runtime.bundle import open_bundle
from edge_runtime.provider_choice import forget
from tests.conftest import no_gpu
from tests.toolkit.conftest import Roadworthy, one_line
from toolkit.report.results import read_result


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    path = tmp_path / "sign.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_verify(roadworthy: Roadworthy, tiny_bundle: Path) -> None:
    code, out, _ = roadworthy("verify", tiny_bundle)
    assert code == 0
    assert "8 of 8 predictions as on the desktop" in out


def test_verify_finds_another_golden_set(roadworthy: Roadworthy, bundle: Path) -> None:
    """Files and hashes agree, but this device computes something else: as a wrong provider would."""
    golden = dict(np.load(bundle / "golden.npz"))
    golden["logits"] += 1
    np.savez(bundle / "golden.npz", **golden)
    data = (bundle / "golden.npz").read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, _, error = roadworthy("verify", bundle)
    assert code == 2
    assert "does not reproduce the golden set" in error


def test_classify(roadworthy: Roadworthy, tiny_bundle: Path, sign: Path) -> None:
    code, out, _ = roadworthy("classify", tiny_bundle, sign, sign)
    assert code == 0
    assert len(out.splitlines()) == 2
    code, out, _ = roadworthy("classify", tiny_bundle, sign, "--json")
    (row,) = json.loads(out)
    assert row["label"] == open_bundle(tiny_bundle).labels[row["class"]]
    assert 0 < row["probability"] <= 1


@pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")
def test_auto_says_why_it_took_the_cpu(
    roadworthy: Roadworthy, tiny_bundle: Path, sign: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget()
    code, out, _ = roadworthy("classify", tiny_bundle, sign, "--provider", "auto", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["provider"] == "cpu"
    assert [each["provider"] for each in row["passed_over"]] == ["tensorrt", "cuda"]
    assert [message.split(":")[0] for message in caplog.messages] == [
        "provider tensorrt passed over",
        "provider cuda passed over",
    ]
    code, out, _ = roadworthy("verify", tiny_bundle, "--provider", "auto")
    assert code == 0 and "golden set in fp32 on cpu: 8 of 8" in out
    (plain,) = json.loads(roadworthy("classify", tiny_bundle, sign, "--json")[1])
    assert plain["provider"] == "cpu" and "passed_over" not in plain


@pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")
def test_auto_tells_on_stderr(tiny_bundle: Path, sign: Path) -> None:
    """In a process of its own, where no test framework listens to the log."""
    script = "from toolkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "classify", str(tiny_bundle), str(sign), "--provider", "auto"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["provider tensorrt passed over", "provider cuda passed over"]


@pytest.mark.parametrize("method", ["vg", "ig", "sg"])
def test_explain(roadworthy: Roadworthy, tiny_bundle: Path, sign: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "why.png"
    code, said, _ = roadworthy("explain", tiny_bundle, sign, "--method", method, "--target", "stop", "-o", out)
    assert code == 0
    assert said.splitlines()[-1] == str(out)
    with Image.open(out) as picture:
        assert picture.width > 2 * 200
    assert "already exists" in one_line(roadworthy("explain", tiny_bundle, sign, "-o", out))


def test_audit(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "natural"
    code, said, _ = roadworthy("audit", tiny_bundle, "--out", out, "--examples", 2)
    assert code == 0
    assert "8 images (audit set of the bundle)" in said
    result = read_result(out / "audit.json", named=True)
    assert isinstance(result, AuditResult)
    assert result.digest == hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    with np.load(out / "examples.npz") as examples:
        assert examples["saliency_ig"].shape == (2, 32, 32)
    assert "already exists" in one_line(roadworthy("audit", tiny_bundle, "--out", out))


def test_audit_of_a_folder_of_images(roadworthy: Roadworthy, tiny_bundle: Path, sign: Path) -> None:
    arguments = ["--images", sign.parent, "--method", "vg", "--no-road", "--json"]
    code, out, _ = roadworthy("audit", tiny_bundle, *arguments)
    assert code == 0
    result = json.loads(out)
    assert (result["images"], result["accuracy"], list(result["explainers"])) == (1, None, ["vg"])


def test_bench_of_two_bundles(roadworthy: Roadworthy, tiny_bundle: Path, bundle: Path, tmp_path: Path) -> None:
    out, samples = tmp_path / "new" / "bench.json", tmp_path / "samples.parquet"
    arguments = ["--stage", "classify", "--stage", "vg", "--iterations", 5, "--warmup", 1, "--cold-starts", 0]
    code, said, _ = roadworthy("bench", tiny_bundle, bundle, *arguments, "--out", out, "--samples", samples)
    assert code == 0
    assert "classify" in said
    result = read_result(out, named=True)
    assert isinstance(result, BenchmarkResult)
    assert len(result.bundles) == 2
    assert len(result.measurements) == 4
    assert all(measured.latency.count == 5 for measured in result.measurements)
    assert samples.stat().st_size > 0
    assert "already exists" in one_line(roadworthy("bench", tiny_bundle, "--out", out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "BUNDLE", "--provider", "cud"], "unknown provider 'cud'; nearest: cuda"),
        (["verify", "BUNDLE", "--threads", "0"], "threads is 0"),
        (["verify", "/nowhere"], "/nowhere is not a bundle folder"),
        (["classify", "BUNDLE", "/nowhere.png"], "/nowhere.png does not exist"),
        (["classify", "BUNDLE", "BUNDLE/manifest.json"], "cannot be read as an image"),
        (["explain", "BUNDLE", "SIGN", "-o", "OUT.png", "--method", "gradcm"], "unknown method 'gradcm'"),
        (["explain", "BUNDLE", "SIGN", "-o", "OUT.png", "--target", "stpo"], "unknown label 'stpo'; nearest: stop"),
        (["explain", "BUNDLE", "SIGN", "-o", "OUT.png", "--preset", "papr"], "unknown preset 'papr'; nearest: paper"),
        (["explain", "BUNDLE", "SIGN", "-o", "OUT.tga"], "ends in none of"),
        (["audit", "BUNDLE", "--method", "igg"], "unknown method 'igg'; nearest: ig"),
        (["audit", "BUNDLE", "--limit", "0"], "limit is 0"),
        (["audit", "BUNDLE", "--images", "/nowhere"], "/nowhere does not exist"),
        (["bench", "BUNDLE", "--stage", "clasify"], "unknown stage 'clasify'; nearest: classify"),
        (["bench", "BUNDLE", "--iterations", "0"], "iterations is 0"),
    ],
)
def test_what_is_refused(
    roadworthy: Roadworthy, tiny_bundle: Path, sign: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"BUNDLE": str(tiny_bundle), "SIGN": str(sign), "OUT": str(tmp_path / "out")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    assert message in one_line(roadworthy(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["sign.png"]


def change_a_byte(bundle: Path) -> None:
    path = bundle / "classifier.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_a_file(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()


def add_a_file(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("extra")


def edit_manifest(bundle: Path, old: str, new: str) -> None:
    path = bundle / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def newer_version(bundle: Path) -> None:
    edit_manifest(bundle, '"format_version": 2', '"format_version": 99')


def leaving_path(bundle: Path) -> None:
    edit_manifest(bundle, '"golden.npz"', '"../golden.npz"')


def broken_manifest(bundle: Path) -> None:
    edit_manifest(bundle, "{", "")


TAMPERING: dict[Callable[[Path], None], str] = {
    change_a_byte: "classifier.onnx was changed",
    remove_a_file: "lacks golden.npz",
    add_a_file: "holds notes.txt",
    newer_version: "format version 99",
    leaving_path: "leaves the bundle folder",
    broken_manifest: "is not a valid manifest",
}


@pytest.mark.parametrize("command", ["verify", "classify", "explain", "audit", "bench"])
@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda function: function.__name__)
def test_tampering(
    roadworthy: Roadworthy, bundle: Path, sign: Path, tmp_path: Path, command: str, tamper: Callable[[Path], None]
) -> None:
    tamper(bundle)
    more = {"classify": [sign], "explain": [sign, "-o", tmp_path / "out.png"]}
    assert TAMPERING[tamper] in one_line(roadworthy(command, bundle, *more.get(command, [])))
    assert not (tmp_path / "out.png").exists()
