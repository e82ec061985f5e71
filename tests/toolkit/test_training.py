from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from edge_runtime.errors import DataError, InputError, RunError
from edge_runtime.preprocess import normalize
from edge_runtime.variant import Variant
from tests.toolkit.squares import DATASET, VARIANT
from toolkit import evaluation, models, pruning, recipes, runs, training
from toolkit.adversarial import PgdConfig
from toolkit.data import Dataset, Split
from toolkit.recipes import TrainConfig
from toolkit.training import Progress, TrainingStoppedError

QUICK = replace(recipes.preset("fast"), epochs=4, batch=32, device="cpu", seed=5)
SPEC = training.input_spec(DATASET)


class StopAfter:
    """A progress callback that presses Ctrl-C in the epoch after ``epochs``."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, progress: Progress) -> None:
        if progress.epoch > self.epochs:
            raise KeyboardInterrupt


def weights(run: Path) -> dict[str, torch.Tensor]:
    return runs.load(run)[0].state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_times(run: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in runs.load_history(run)]


def stop_and_resume(dataset: Dataset, run: Path, config: TrainConfig, variant: Variant, model: object = None) -> None:
    with pytest.raises(TrainingStoppedError, match=r"2 of 4 epochs are kept .* --resume"):
        training.train(dataset, run, config, variant, model, progress=StopAfter(2))
    assert not run.exists()
    assert len(runs.load_history(runs.partial_folder(run))) == 2
    training.resume(run, dataset)
    assert not runs.partial_folder(run).exists()


def test_training_learns_and_leaves_a_run(tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = replace(QUICK, epochs=6, augmentation="none")
    trained = training.train(DATASET, tmp_path / "run", config, VARIANT, progress=seen.append)
    assert trained.history[-1]["validation_accuracy"] > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {runs.WEIGHTS, runs.INFO, runs.METRICS}
    model, info = runs.load(tmp_path / "run")
    assert info == trained.info
    assert info.dataset_digest == DATASET.digest
    assert evaluation.accuracy(model, DATASET.validation, info.input) == trained.history[-1]["validation_accuracy"]
    assert [row["epoch"] for row in runs.load_history(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert (seen[-1].epoch, seen[-1].step, seen[-1].steps) == (6, 7, 7)
    assert seen[-1].validation_accuracy == trained.history[-2]["validation_accuracy"]


@pytest.mark.parametrize("optimizer", recipes.OPTIMIZERS)
def test_resuming_is_bit_identical(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "ranger":
        pytest.importorskip("pytorch_optimizer")
    config = replace(QUICK, optimizer=optimizer, learning_rate=0.05 if optimizer == "sgd" else 1e-3)
    training.train(DATASET, tmp_path / "straight", config, VARIANT)
    torch.manual_seed(99)  # another process would have another global state
    stop_and_resume(DATASET, tmp_path / "resumed", config, VARIANT)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "resumed"))
    assert without_times(tmp_path / "straight") == without_times(tmp_path / "resumed")


@pytest.mark.parametrize("method", ["layered", "channel"])
def test_resuming_a_pruned_network_is_bit_identical(tmp_path: Path, method: str) -> None:
    """Pruned before training: masks and structure must survive the checkpoint and hold until the end."""
    variant = Variant(
        dataset="squares",
        architecture="vgg_small",
        width=0.5,
        input_size=16,
        pruning=method,
        timing="pre",
    )

    def fresh() -> torch.nn.Module:
        return pruning.prune(models.build("vgg_small", 4, width=0.5, input_size=16), method, 0.5, input_size=16)

    expected = evaluation.count(fresh(), 16)
    training.train(DATASET, tmp_path / "straight", QUICK, variant, fresh())
    stop_and_resume(DATASET, tmp_path / "resumed", QUICK, variant, fresh())
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "resumed"))
    after = evaluation.count(runs.load(tmp_path / "resumed")[0], 16)
    assert (after.sparsity, after.macs, after.parameters) == (expected.sparsity, expected.macs, expected.parameters)


def test_fine_tuning_a_loaded_masked_run_keeps_its_zeros(tmp_path: Path) -> None:
    variant = Variant(
        dataset="squares", architecture="vgg_small", width=0.5, input_size=16, pruning="l1", amount=0.5, timing="post"
    )
    model = pruning.prune(models.build("vgg_small", 4, width=0.5, input_size=16), "l1", 0.5)
    runs.save(tmp_path / "pruned", model, info_of(DATASET, variant))
    loaded, _ = runs.load(tmp_path / "pruned")
    before = evaluation.count(loaded, 16).sparsity
    tuned = training.train(DATASET, tmp_path / "tuned", replace(QUICK, epochs=1), variant, loaded)
    assert evaluation.count(tuned.model, 16).sparsity == before > 0.45


def info_of(dataset: Dataset, variant: Variant) -> runs.RunInfo:
    return runs.RunInfo(
        variant=variant, input=training.input_spec(dataset), labels=dataset.labels, dataset_digest=dataset.digest
    )


def test_adversarial_training_is_reproducible_and_differs(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=1, adversarial=PgdConfig(eps=0.05, step=0.03, steps=2))
    for name in ("first", "again"):
        training.train(DATASET, tmp_path / name, config, VARIANT)
    training.train(DATASET, tmp_path / "natural", replace(config, adversarial=None), VARIANT)
    assert same(weights(tmp_path / "first"), weights(tmp_path / "again"))
    assert not same(weights(tmp_path / "first"), weights(tmp_path / "natural"))


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        training.train(DATASET, tmp_path / name, replace(QUICK, epochs=1, seed=seed), VARIANT)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_training_input_is_the_vehicles_preprocessing() -> None:
    images, spec = DATASET.test.images, training.input_spec(DATASET)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert np.array_equal(training.prepare(pixels, spec).numpy(), normalize(images, spec))


def test_the_authors_dropout_accident_is_an_option(tmp_path: Path) -> None:
    """In evaluation mode batch norm's counters stand still, so they tell how many epochs were in training mode."""
    config = replace(QUICK, epochs=2, train_mode_epochs=1)
    trained = training.train(DATASET, tmp_path / "run", config, VARIANT)
    assert trained.model.state_dict()["features.1.num_batches_tracked"] == trained_steps(DATASET, config)


def trained_steps(dataset: Dataset, config: TrainConfig) -> int:
    return -(-len(dataset.train) // config.batch)


def test_a_single_image_left_over_joins_a_batch(tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = replace(QUICK, epochs=1, batch=101)  # 203 = 2 * 101 + 1
    training.train(DATASET, tmp_path / "run", config, VARIANT, progress=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(2, 2)]


def test_a_loss_that_is_not_finite_names_the_epoch_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = replace(QUICK, learning_rate=1000.0, schedule="constant")
    with pytest.raises(RunError, match=r"in epoch \d \(learning rate 1000\); lower the learning rate") as caught:
        training.train(DATASET, tmp_path / "run", config, VARIANT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert training.pending(tmp_path / "run").config == config


def test_ctrl_c_in_the_first_epoch_can_be_resumed(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=1)
    with pytest.raises(TrainingStoppedError, match="0 of 1 epochs") as caught:
        training.train(DATASET, tmp_path / "run", config, VARIANT, progress=StopAfter(0))
    assert caught.value.exit_code == 130
    plan = training.pending(tmp_path / "run")
    assert (plan.config, plan.dataset_spec, plan.info.variant) == (config, "squares", VARIANT)
    training.resume(tmp_path / "run", DATASET)
    training.train(DATASET, tmp_path / "straight", config, VARIANT)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "straight"))


def test_existing_and_unfinished_runs_are_refused_without_force(tmp_path: Path) -> None:
    config, run = replace(QUICK, epochs=1), tmp_path / "run"
    first = training.train(DATASET, run, config, VARIANT)
    with pytest.raises(RunError, match="already exists"):
        training.train(DATASET, run, config, VARIANT)
    with pytest.raises(TrainingStoppedError):
        training.train(DATASET, run, config, VARIANT, force=True, progress=StopAfter(0))
    assert same(weights(run), first.model.state_dict()), "the old run stays until the new one is complete"
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="no unfinished training"):
        training.resume(tmp_path / "other", DATASET)
    run.rename(tmp_path / "kept")
    with pytest.raises(RunError, match=r"holds an unfinished training; continue with --resume or .* --force"):
        training.train(DATASET, run, config, VARIANT)
    training.train(DATASET, run, replace(config, seed=8), VARIANT, force=True)
    assert not same(weights(run), first.model.state_dict())


def test_resuming_with_other_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError):
        training.train(DATASET, tmp_path / "run", QUICK, VARIANT, progress=StopAfter(0))
    other = replace(DATASET, spec="npz:other", digest="f" * 64)
    with pytest.raises(RunError, match="began with other images than 'npz:other' now has; use 'squares'"):
        training.resume(tmp_path / "run", other)


def test_resuming_does_not_replace_a_run_that_came_in_between(tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError):
        training.train(DATASET, tmp_path / "run", QUICK, VARIANT, progress=StopAfter(0))
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="already exists"):
        training.resume(tmp_path / "run", DATASET)
    assert training.pending(tmp_path / "run").config == QUICK


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError):
        training.train(DATASET, tmp_path / "run", QUICK, VARIANT, progress=StopAfter(0))
    path = runs.partial_folder(tmp_path / "run") / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"is damaged: .* start again with --force"):
        training.resume(tmp_path / "run", DATASET)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the operating system itself."""

    def fill(progress: Progress) -> None:
        if progress.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError, match=r"checkpoint.safetensors cannot be written: File too large"):
            training.train(DATASET, tmp_path / "run", QUICK, VARIANT, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(training.resume(tmp_path / "run", DATASET).history) == 4


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written: Not a directory"):
        training.train(DATASET, tmp_path / "file" / "run", QUICK, VARIANT)


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wrong = Variant(dataset="squares", architecture="vgg_small", width=0.5, input_size=32)
    with pytest.raises(DataError, match="images of 16x16 pixels, the variant wants 32x32"):
        training.train(DATASET, tmp_path / "run", QUICK, wrong)
    one = replace(DATASET, train=Split(DATASET.train.images[:1], DATASET.train.labels[:1], None))
    with pytest.raises(DataError, match="has 1 training images"):
        training.train(one, tmp_path / "run", QUICK, VARIANT)
    assert list(tmp_path.iterdir()) == []


def test_training_without_validation_images_says_so_in_the_metrics(tmp_path: Path) -> None:
    empty = Split(DATASET.test.images[:0], DATASET.test.labels[:0], None)
    dataset = replace(DATASET, validation=empty)
    training.train(dataset, tmp_path / "run", replace(QUICK, epochs=1), VARIANT)
    row = json.loads((tmp_path / "run" / runs.METRICS).read_text())
    assert row["validation_accuracy"] is None


def test_presets_are_the_protocols() -> None:
    paper = recipes.preset("paper")
    assert (paper.optimizer, paper.learning_rate, paper.momentum, paper.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (paper.batch, paper.epochs, paper.schedule, paper.augmentation) == (128, 100, "constant", "none")
    assert recipes.preset("paper", fine_tune=True).epochs == 50
    resnet = recipes.preset("paper", architecture="resnet18")
    assert (resnet.optimizer, resnet.learning_rate, resnet.batch, resnet.epochs) == ("ranger", 1e-4, 8, 100)
    code = recipes.preset("authors-code")
    assert (code.train_mode_epochs, code.learning_rate) == (1, 0.01)
    assert recipes.preset("authors-code", architecture="resnet18").epochs == 30
    assert recipes.preset("authors-code", dataset="lisa", fine_tune=True).epochs == 100
    assert recipes.preset("authors-code", dataset="gtsrb", fine_tune=True).epochs == 50


@pytest.mark.parametrize("name", recipes.SCHEDULES)
def test_schedules_stay_between_0_and_1(name: str) -> None:
    factors = [recipes.SCHEDULES[name](share) for share in np.linspace(0, 1, 101)]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1, abs=1e-3)
    assert name == "constant" or factors[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; nearest: sgd"),
        ({"schedule": "cosinus"}, "unknown schedule 'cosinus'; nearest: cosine"),
        ({"augmentation": "heavy"}, "unknown augmentation 'heavy'; known: light, none"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"amp": ("gpu",)}, "unknown kind of device 'gpu'; nearest: cpu"),
        ({"channels_last": ("cuda", "tpu")}, "unknown kind of device 'tpu'"),
        ({"compile": "alway"}, "unknown compile 'alway'; nearest: always"),
        ({"epochs": 0}, "epochs 0 is outside 1"),
        ({"batch": 1}, "batch 1 is outside 2"),
        ({"learning_rate": 0.0}, "learning_rate 0 is outside"),
        ({"learning_rate": float("nan")}, "learning_rate nan is outside"),
        ({"seed": -1}, "seed -1 is outside 0"),
    ],
)
def test_bad_configurations_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**values)
    with pytest.raises(InputError, match="unknown training preset 'pape'; nearest: paper"):
        recipes.preset("pape")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_device_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'cuda' is not available on this machine; use cpu or auto"):
        training.train(DATASET, tmp_path / "run", replace(QUICK, device="cuda"), VARIANT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_training_on_cuda(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=6, augmentation="none", device="cuda")
    trained = training.train(DATASET, tmp_path / "run", config, VARIANT)
    assert trained.history[-1]["validation_accuracy"] > 0.9
    assert next(trained.model.parameters()).device.type == "cpu"


def test_a_checkpoint_of_an_older_release_goes_on(tmp_path: Path) -> None:
    """Mixed precision was one switch once."""
    with pytest.raises(TrainingStoppedError):
        training.train(DATASET, tmp_path / "run", QUICK, VARIANT, progress=StopAfter(0))
    path = runs.partial_folder(tmp_path / "run") / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["training"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    assert header["plan"]["config"].pop("compile") == "auto"
    for old, new in ((True, ("cuda",)), (False, ())):
        header["plan"]["config"]["amp"] = old
        path.write_bytes(safetensors.torch.save(tensors, metadata={"training": json.dumps(header)}))
        assert training.pending(tmp_path / "run").config.amp == new
    assert len(training.resume(tmp_path / "run", DATASET).history) == 4
