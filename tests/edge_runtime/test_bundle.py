"""A bundle is opened whole and unchanged, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.manifest import FORMAT_VERSION, MAX_MANIFEST_BYTES, ExplainerPreset
from edge_runtime.self_test import TOLERANCES, tolerance_of
from tests.edge_runtime.tiny_bundle import (
    CLASSES,
    LABELS,
    SIZE,
    TinyNetwork,
    images,
    npz,
    tiny_files,
    write_tiny_bundle,
)


def edit_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_opens_and_returns_the_stored_bytes(tiny_folder: Path) -> None:
    bundle = open_bundle(tiny_folder)
    assert bundle.labels == LABELS
    assert bundle.read("classifier.onnx") == (tiny_folder / "classifier.onnx").read_bytes()
    assert bundle.has("explainer.onnx") and not bundle.has("golden.npz")
    assert len(bundle.digest) == 64


def test_path_may_be_a_string_and_the_folder_a_link(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tiny_folder, target_is_directory=True)
    assert open_bundle(str(tmp_path / "current")).labels == LABELS


def test_signed_metadata_is_not_listed(tiny_folder: Path) -> None:
    (tiny_folder / "metadata").mkdir()
    (tiny_folder / "metadata" / "root.json").write_text("{}")
    assert open_bundle(tiny_folder).labels == LABELS


@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_changed_byte_is_found(tiny_folder: Path, position: int) -> None:
    data = bytearray((tiny_folder / "classifier.onnx").read_bytes())
    data[position] ^= 1
    (tiny_folder / "classifier.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"classifier\.onnx was changed"):
        open_bundle(tiny_folder)


def test_a_byte_changed_after_opening_never_reaches_the_engine(tiny_folder: Path) -> None:
    bundle = open_bundle(tiny_folder)
    data = bytearray((tiny_folder / "classifier.onnx").read_bytes())
    data[200] ^= 1
    (tiny_folder / "classifier.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"classifier\.onnx was changed"):
        bundle.read("classifier.onnx")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"0"])
def test_another_size_is_found(tiny_folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = tiny_folder / "explainer.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError, match=r"explainer\.onnx has \d+ bytes, the manifest says \d+"):
        open_bundle(tiny_folder)


def test_a_huge_stated_size_allocates_nothing(tiny_folder: Path) -> None:
    edit_manifest(tiny_folder, lambda m: m["files"]["explainer.onnx"].update(size=1 << 60))
    with pytest.raises(BundleError, match="the manifest says 1152921504606846976"):
        open_bundle(tiny_folder)


def test_a_missing_file(tiny_folder: Path) -> None:
    (tiny_folder / "audit_set.npz").unlink()
    with pytest.raises(BundleError, match=r"lacks audit_set\.npz; copy the bundle again"):
        open_bundle(tiny_folder)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "models/extra.onnx", "Metadata/x"])
def test_an_extra_file(tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).parent.mkdir(exist_ok=True)
    (tiny_folder / name).write_text("x")
    with pytest.raises(BundleError, match="which the manifest does not name"):
        open_bundle(tiny_folder)


@pytest.mark.parametrize("inside", ["", "metadata/"])
def test_a_link_to_a_file(tiny_folder: Path, tmp_path: Path, inside: str) -> None:
    (tiny_folder / "metadata").mkdir()
    outside = tmp_path / "outside.npz"
    shutil.move(tiny_folder / "audit_set.npz", outside)
    (tiny_folder / inside / "audit_set.npz").symlink_to(outside)
    with pytest.raises(BundleError, match=r"audit_set\.npz is a link"):
        open_bundle(tiny_folder)


def test_a_linked_folder(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tiny_folder / "metadata").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(BundleError, match="metadata is a link"):
        open_bundle(tiny_folder)


def test_a_pipe_does_not_block(tiny_folder: Path) -> None:
    (tiny_folder / "audit_set.npz").unlink()
    os.mkfifo(tiny_folder / "audit_set.npz")
    with pytest.raises(BundleError, match="neither file nor folder"):
        open_bundle(tiny_folder)


def test_a_linked_or_piped_manifest(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.move(tiny_folder / "manifest.json", tmp_path / "manifest.json")
    (tiny_folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        open_bundle(tiny_folder)
    (tiny_folder / "manifest.json").unlink()
    os.mkfifo(tiny_folder / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json is not a plain file"):
        open_bundle(tiny_folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.npz", "leaves the bundle folder"),
        ("/etc/passwd", "leaves the bundle folder"),
        ("a/../../b", "leaves the bundle folder"),
        ("a//b", "leaves the bundle folder"),
        ("..\\b", "leaves the bundle folder"),
        ("C:b", "leaves the bundle folder"),
        ("", "leaves the bundle folder"),
        ("./b", "hidden"),
        (".b", "hidden"),
        ("a/.b", "hidden"),
        ("manifest.json", "which no manifest may"),
        ("metadata/root.json", "which no manifest may"),
    ],
)
def test_a_name_that_no_bundle_may_list(tiny_folder: Path, name: str, reason: str) -> None:
    edit_manifest(tiny_folder, lambda m: m["files"].update({name: m["files"]["audit_set.npz"]}))
    with pytest.raises(BundleError, match=reason):
        open_bundle(tiny_folder)


def test_a_newer_format_is_named_even_if_its_fields_are_unknown(tiny_folder: Path) -> None:
    edit_manifest(tiny_folder, lambda m: m.update(format_version=FORMAT_VERSION + 1, novelty=[1]))
    with pytest.raises(BundleError, match=f"format version {FORMAT_VERSION + 1}.*update roadworthy"):
        open_bundle(tiny_folder)


def test_the_first_format_has_no_tolerances_and_still_opens(tiny_folder: Path) -> None:
    edit_manifest(tiny_folder, lambda m: (m.update(format_version=1), m.pop("tolerances")))
    manifest = open_bundle(tiny_folder).manifest
    assert (manifest.format_version, manifest.tolerances) == (1, {})
    for precision, by_provider in TOLERANCES.items():
        for provider, usual in by_provider.items():
            assert tolerance_of(manifest, precision, provider) == usual


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(novelty=1), "novelty"),
        (lambda m: m.pop("labels"), "labels"),
        (lambda m: m.update(labels=[]), "names no labels"),
        (lambda m: m.update(labels=["stop", "stop"]), "two labels are the same"),
        (lambda m: m.update(format_version=0), "format version 0 does not exist"),
        (lambda m: m["files"].pop("classifier.onnx"), r"names no classifier\.onnx"),
        (lambda m: m["input"].update(std=[1, 0, 1]), "not positive"),
        (lambda m: m["input"].update(height=0), "height"),
        (lambda m: m["files"]["audit_set.npz"].update(sha256="00"), "sha256"),
        (lambda m: m["files"]["audit_set.npz"].update(size="1"), "size"),
        (lambda m: m.update(explainers={"vg": {"method": "ig"}}), "another method's name"),
        (lambda m: m.update(explainers={"vg": {"method": "lime"}}), "lime"),
        (lambda m: m.update(tolerances={"int8": {}}), "bounds a precision that it lacks"),
        (lambda m: m.update(tolerances={"fp32": {"gpu": {"logits": 0.1, "attribution": 0.1}}}), "gpu"),
        (lambda m: m.update(tolerances={"fp32": {"cpu": {"logits": 0.0, "attribution": 0.1}}}), "logits"),
        (lambda m: m.update(tolerances={"fp32": {"cpu": {"logits": 0.1, "attribution": 1.5}}}), "attribution"),
        (lambda m: m.update(tolerances={"fp32": {"cpu": {"logits": 0.1}}}), "attribution"),
    ],
)
def test_a_manifest_that_breaks_the_schema(
    tiny_folder: Path, change: Callable[[dict[str, object]], object], reason: str
) -> None:
    edit_manifest(tiny_folder, change)
    with pytest.raises(BundleError, match=reason):
        open_bundle(tiny_folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_json_object(tiny_folder: Path, content: bytes) -> None:
    (tiny_folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match="is not a valid manifest") as caught:
        open_bundle(tiny_folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_beyond_the_size_limit(tiny_folder: Path) -> None:
    with (tiny_folder / "manifest.json").open("ab") as file:
        file.write(b" " * MAX_MANIFEST_BYTES)
    with pytest.raises(BundleError, match="larger than 4 MiB"):
        open_bundle(tiny_folder)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle folder"):
        open_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        open_bundle(tmp_path)


def test_a_file_that_the_bundle_does_not_hold(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match=r"holds no golden\.npz"):
        tiny.golden()


def test_audit_set(tiny: Bundle) -> None:
    found = tiny.audit_set()
    assert found.images.shape == (12, SIZE, SIZE, 3)
    assert found.labels.shape == (12,)


def test_golden(tmp_path: Path, network: TinyNetwork) -> None:
    normalised = np.zeros((4, 3, SIZE, SIZE), np.float32)
    arrays = {
        "images": normalised,
        "target": np.zeros(4, np.int64),
        "logits": np.zeros((4, CLASSES), np.float32),
        "attribution_vg": normalised + 1,
        "attribution_ig": normalised + 2,
    }
    files = tiny_files(network) | {"golden.npz": npz(**arrays)}
    golden = open_bundle(write_tiny_bundle(tmp_path / "good", files)).golden()
    assert sorted(golden.attribution) == ["ig", "vg"]
    assert golden.attribution["ig"].max() == 2
    bad = files | {"golden.npz": npz(**(arrays | {"attribution_ig": normalised[:3]}))}
    with pytest.raises(
        BundleError, match=r"'attribution_ig' is float32 \[3, 3, 8, 8\], expected float32 \[4, 3, 8, 8\]"
    ):
        open_bundle(write_tiny_bundle(tmp_path / "bad", bad)).golden()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a zip", "not a readable .npz"),
        (npz(images=images(2)), "holds no 'labels'"),
        (npz(images=images(2), labels=np.zeros(3, np.int64)), r"'labels' is int64 \[3\], expected int64 \[2\]"),
        (npz(images=images(2).astype("f"), labels=np.zeros(2, np.int64)), "'images' is float32"),
        (npz(images=images(2), labels=np.full(2, CLASSES)), "a label is outside 0..4"),
        (npz(images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64)), "not a readable .npz"),
    ],
)
def test_a_malformed_audit_set(tmp_path: Path, network: TinyNetwork, data: bytes, reason: str) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(network) | {"audit_set.npz": data})
    with pytest.raises(BundleError, match=reason):
        open_bundle(folder).audit_set()


def test_an_npz_that_unfolds_without_end(tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    data = npz(images=np.zeros((1000, SIZE, SIZE, 3), np.uint8), labels=np.zeros(1000, np.int64))
    monkeypatch.setattr("edge_runtime.bundle.MAX_ARRAY_BYTES", 10_000)
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(network) | {"audit_set.npz": data})
    with pytest.raises(BundleError, match="unfolds to 200"):
        open_bundle(folder).audit_set()


def test_a_preset_of_the_manifest(tmp_path: Path, network: TinyNetwork) -> None:
    preset = ExplainerPreset(method="ig", samples=7, tolerance=0.1)
    folder = write_tiny_bundle(tmp_path / "bundle", tiny_files(network), explainers={"ig": preset})
    assert open_bundle(folder).manifest.explainers["ig"] == preset
