"""Pruning in steps: the target is reached bit by bit, and an interruption costs an epoch, not a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edge_runtime.errors import InputError, RunError
from tests.toolkit.squares import DATASET, VARIANT
from toolkit import evaluation, pipeline, runs, training
from toolkit.pipeline import Pruning
from toolkit.pruning import steps
from toolkit.recipes import TrainConfig
from toolkit.training import Progress, TrainingStoppedError

CONFIG = TrainConfig(epochs=5, batch=64, learning_rate=0.02, device="cpu")
HOW = Pruning("channel", 0.5, steps=2)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "natural"
    training.train(DATASET, out, replace(CONFIG, epochs=1), VARIANT)
    return out


@pytest.fixture(scope="module")
def finished(parent: Path) -> Path:
    out = parent.with_name("steps")
    pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG)
    return out


def test_half_goes_in_two_steps_with_the_epochs_between_them(parent: Path, finished: Path) -> None:
    model, info = runs.load(finished)
    assert info.variant.slug.endswith("channel0.5-steps2-post-ft5-s0")
    assert 0.4 < info.removed["channels"] <= 0.5  # the first convolution has but 8
    original, _ = runs.load(parent)
    assert evaluation.count(model, 16).macs < 0.6 * evaluation.count(original, 16).macs
    history = runs.load_history(finished)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in history] == [1, 1, 2, 2, 2]
    assert not steps.steps_folder(finished).exists()


def test_the_first_step_goes_half_the_way(parent: Path, tmp_path: Path) -> None:
    def stop(state: Progress) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(TrainingStoppedError, match="stopped in step 2 of 2; the same command goes on"):
        pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG, progress=stop)
    assert not out.exists()
    assert runs.load_info(steps.steps_folder(out) / "1").removed["channels"] == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("stop_at", [2, 4])
def test_an_interrupted_pruning_ends_the_same(parent: Path, finished: Path, tmp_path: Path, stop_at: int) -> None:
    trained: list[int] = []

    def stop(state: Progress) -> None:
        if state.epoch == stop_at:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(TrainingStoppedError):
        pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG, progress=stop)
    report = lambda state: trained.append(state.epoch)  # noqa: E731
    pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG, progress=report)
    assert sorted(set(trained)) == list(range(stop_at, 6)), "epochs that were done are not repeated"
    expected, found = runs.load(finished)[0].state_dict(), runs.load(out)[0].state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_damaged_checkpoint_costs_its_step_only(parent: Path, finished: Path, tmp_path: Path) -> None:
    def stop(state: Progress) -> None:
        if state.epoch == 4:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(TrainingStoppedError):
        pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG, progress=stop)
    (checkpoint,) = steps.steps_folder(out).glob("2.partial/*.safetensors")
    checkpoint.write_bytes(b"damaged")
    pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG)
    assert torch.equal(runs.load(out)[0].features[0].weight, runs.load(finished)[0].features[0].weight)


def test_steps_of_another_request_are_in_the_way(parent: Path, tmp_path: Path) -> None:
    def stop(state: Progress) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(TrainingStoppedError):
        pipeline.prune(parent, out, HOW, dataset=DATASET, fine_tune=CONFIG, progress=stop)
    other = Pruning("channel", 0.3, steps=2)
    with pytest.raises(RunError, match=r"out\.steps holds steps of another pruning; --force starts over"):
        pipeline.prune(parent, out, other, dataset=DATASET, fine_tune=CONFIG)
    assert pipeline.prune(parent, out, other, dataset=DATASET, fine_tune=CONFIG, force=True).variant.amount == 0.3


def test_masks_grow_step_by_step(parent: Path, tmp_path: Path) -> None:
    how = Pruning("semi-structured", steps=2)
    pipeline.prune(parent, tmp_path / "out", how, dataset=DATASET, fine_tune=replace(CONFIG, epochs=2))
    model, _ = runs.load(tmp_path / "out")
    for layer in model.features[3:4]:
        assert bool(((layer.weight == 0).unflatten(1, (-1, 4)).sum(2) == 2).all())


def test_what_steps_need(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 epochs of fine-tuning cannot follow each of 2 steps; give at least 2"):
        pipeline.prune(parent, tmp_path / "a", HOW, dataset=DATASET, fine_tune=replace(CONFIG, epochs=1))
    with pytest.raises(InputError, match="steps 2 need fine-tuning between them"):
        pipeline.prune(parent, tmp_path / "b", HOW, dataset=DATASET)
    with pytest.raises(InputError, match="steps 2 need fine-tuning between them"):
        pipeline.train(DATASET, tmp_path / "c", "vgg_small", CONFIG, prune=HOW)
    assert list(tmp_path.iterdir()) == []
