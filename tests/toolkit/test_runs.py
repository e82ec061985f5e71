from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from edge_runtime.errors import RunError
from edge_runtime.manifest import InputSpec
from edge_runtime.variant import Variant
from toolkit import models, pruning, runs
from toolkit.data import MEAN, STD
from toolkit.runs import RunInfo

LABELS = ("red", "green", "blue", "yellow")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def info(architecture: str = "vgg_small", width: float = 0.5, pruned: str = "none") -> RunInfo:
    variant = Variant(dataset="squares", architecture=architecture, width=width, pruning=pruned)
    spec = InputSpec(height=32, width=32, mean=MEAN, std=STD)
    return RunInfo(variant=variant, input=spec, labels=LABELS, dataset_digest="0" * 64)


def build(described: RunInfo) -> torch.nn.Module:
    return models.build(described.variant.architecture, len(LABELS), width=described.variant.width, seed=9).eval()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    runs.save(tmp_path / "run", build(info()), info(), history=[{"epoch": 1, "loss": 0.5}])
    return tmp_path / "run"


def test_a_run_comes_back_from_its_two_files(run: Path) -> None:
    (run / runs.METRICS).unlink()
    assert {path.name for path in run.iterdir()} == {"model.safetensors", "variant.json"}
    model, described = runs.load(run)
    assert described == info()
    assert not model.training
    assert torch.equal(model(IMAGES), build(info())(IMAGES))


@pytest.mark.parametrize("method", pruning.METHODS)
def test_pruned_runs_come_back(tmp_path: Path, method: str) -> None:
    pruned = pruning.prune(build(info()), method).eval()
    expected = pruned(IMAGES)
    saved = runs.save(tmp_path / "run", pruned, info(pruned=method))
    model, described = runs.load(tmp_path / "run")
    assert described == saved
    assert bool(described.structure) == (method == "channel")
    assert torch.equal(model(IMAGES), expected)
    assert not pruning.masked_weights(model)


@pytest.mark.parametrize(("architecture", "width"), [("resnet18", 0.25), ("squeezenet1_1", 1.0), ("mnasnet0_5", 1.0)])
def test_other_architectures_come_back_with_channels_removed(tmp_path: Path, architecture: str, width: float) -> None:
    described = info(architecture, width, "channel")
    pruned = pruning.prune(build(described), "channel").eval()
    runs.save(tmp_path / "run", pruned, described)
    assert torch.equal(runs.load(tmp_path / "run")[0](IMAGES), pruned(IMAGES))


def test_no_file_of_a_run_is_a_pickle(run: Path) -> None:
    for path in run.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))


def test_metrics_come_back(run: Path) -> None:
    assert runs.load_history(run) == [{"epoch": 1, "loss": 0.5}]
    (run / runs.METRICS).write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match=r"metrics.jsonl is damaged"):
        runs.load_history(run)


def test_an_existing_run_is_refused_without_force(run: Path) -> None:
    with pytest.raises(RunError, match=r"already exists; .* --force"):
        runs.save(run, build(info()), info())
    runs.save(run, build(info()), info(), force=True)
    assert runs.load_history(run) == []


def test_a_failing_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        runs.save(tmp_path / "file" / "run", build(info()), info())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the operating system itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunError, match=r"run cannot be written: File too large; make room"):
            runs.save(tmp_path / "run", build(info()), info())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((run / runs.INFO).read_text())
    change(raw)
    (run / runs.INFO).write_text(json.dumps(raw))


def edit_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(run / runs.WEIGHTS)
    change(weights)
    save_file(weights, run / runs.WEIGHTS)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda run: (run / runs.INFO).unlink(), "is no run: it holds no variant.json"),
    "no weights": (lambda run: (run / runs.WEIGHTS).unlink(), "model.safetensors is missing"),
    "truncated weights": (lambda run: truncate(run / runs.WEIGHTS), "model.safetensors is damaged"),
    "truncated description": (lambda run: truncate(run / runs.INFO), "variant.json is damaged"),
    "not an object": (lambda run: (run / runs.INFO).write_text("[1]"), "variant.json is damaged"),
    "not text": (lambda run: (run / runs.INFO).write_bytes(b"\xff\xfe{}"), "variant.json is damaged"),
    "a newer format": (lambda run: edit(run, lambda raw: raw.update(format=2)), "format 2, this release reads"),
    "an unknown field": (lambda run: edit(run, lambda raw: raw.update(extra=1)), "variant.json is damaged"),
    "an unknown architecture": (
        lambda run: edit(run, lambda raw: raw["variant"].update(architecture="vgg99")),
        "unknown model 'vgg99'",
    ),
    "another width": (lambda run: edit(run, lambda raw: raw["variant"].update(width=0.25)), "do not fit together"),
    "a label too many": (lambda run: edit(run, lambda raw: raw["labels"].append("pink")), "do not fit together"),
    "another input size": (lambda run: edit(run, lambda raw: raw["input"].update(height=64)), "is inconsistent"),
    "a structure of no module": (
        lambda run: edit(run, lambda raw: raw.update(structure={"features.99": {"out_channels": 8}})),
        "features.99.out_channels, which the architecture does not have",
    ),
    "a structure of no such attribute": (
        lambda run: edit(run, lambda raw: raw.update(structure={"features.0": {"forward": 8}})),
        "features.0.forward, which the architecture does not have",
    ),
    "a structure that does not compute": (
        lambda run: (
            edit(run, lambda raw: raw.update(structure={"features.0": {"out_channels": 24}})),
            edit_weights(run, lambda weights: weights.update({"features.0.weight": torch.zeros(24, 3, 3, 3)})),
        ),
        "do not fit together",
    ),
    "a missing tensor": (
        lambda run: edit_weights(run, lambda weights: weights.pop("features.0.weight")),
        "do not fit together",
    ),
    "an extra tensor": (
        lambda run: edit_weights(run, lambda weights: weights.update(extra=torch.zeros(1))),
        "do not fit together",
    ),
    "a tensor of another shape": (
        lambda run: edit_weights(run, lambda weights: weights.update({"features.0.bias": torch.zeros(3)})),
        "do not fit together",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs_are_one_clear_line(run: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(run)
    with pytest.raises(RunError) as caught:
        runs.load(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_unfinished_runs_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist; `roadworthy train`"):
        runs.load(tmp_path / "none")
    runs.partial_folder(tmp_path / "half").mkdir()
    with pytest.raises(RunError, match="half is not finished training; continue with --resume"):
        runs.load(tmp_path / "half")


def test_the_description_is_readable_and_complete(run: Path) -> None:
    raw = msgspec.json.decode((run / runs.INFO).read_bytes())
    assert raw["format"] == 1
    assert raw["variant"]["architecture"] == "vgg_small"
    assert raw["labels"] == list(LABELS)
    assert raw.keys() == {"variant", "input", "labels", "dataset_digest", "structure", "removed", "format"}
