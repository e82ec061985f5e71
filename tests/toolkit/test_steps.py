"""Gradients of a batch: in parts, attacked, in mixed precision, compiled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.toolkit.squares import DATASET, VARIANT
from tests.toolkit.test_training import QUICK, SPEC, weights
from toolkit import evaluation, models, pruning, recipes, runs, steps, training
from toolkit.adversarial import PgdConfig
from toolkit.recipes import TrainConfig
from toolkit.steps import Batch, Network

ATTACK = PgdConfig(eps=0.05, step=0.03, steps=2)
Passes = Callable[..., torch.Tensor]


def a_batch(count: int = 32) -> Batch:
    images = training.prepare(torch.from_numpy(DATASET.train.images[:count]).permute(0, 3, 1, 2) / 255, SPEC)
    return Batch(images, torch.from_numpy(DATASET.train.labels[:count]), count)


def a_network(config: TrainConfig = QUICK, **options: Any) -> Network:
    model = models.build("vgg_small", 4, width=0.5, input_size=16)
    return Network(model.eval(), config, SPEC, **options)  # in training mode batch normalisation would see the parts


def found(network: Network, batch: Batch) -> list[torch.Tensor]:
    """Return the sums and every gradient."""
    sums = steps.gradients(network, batch, torch.Generator().manual_seed(0))
    return [sums, *(weight.grad.clone() for weight in network.model.parameters())]


def close(first: list[torch.Tensor], second: list[torch.Tensor], rtol: float = 1e-4) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("attack", [None, ATTACK], ids=["natural", "adversarial"])
def test_gradients_of_the_parts_add_up(attack: PgdConfig | None) -> None:
    config = replace(QUICK, adversarial=attack)
    close(found(a_network(config, parts=3), a_batch()), found(a_network(config), a_batch()))


def test_the_sums_are_those_of_the_loss_and_of_right_answers() -> None:
    network, batch = a_network(replace(QUICK, label_smoothing=0.0)), a_batch()
    loss, right = found(network, batch)[0].tolist()
    logits = network.model(batch.images)
    assert loss == pytest.approx(32 * torch.nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert right == (logits.argmax(1) == batch.labels).sum()


def tight(limit: int, passes: Passes) -> Passes:
    """Return passes in which no more than ``limit`` images fit into memory."""

    def run(network: Network, batch: Batch, noise: torch.Tensor | None) -> torch.Tensor:
        if network.part_size(len(batch.labels)) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return passes(network, batch, noise)

    return run


def test_a_batch_that_does_not_fit_is_halved_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(steps, "_passes", tight(20, steps._passes))
    trained = training.train(DATASET, tmp_path / "run", replace(QUICK, epochs=1, batch=64), VARIANT)
    assert np.isfinite(trained.history[0]["loss"])
    assert [record.args for record in caplog.records] == [(64, 32), (64, 16)]


def test_memory_decides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, adversarial=ATTACK)
    whole = found(a_network(config), a_batch())
    monkeypatch.setattr(steps, "_passes", tight(10, steps._passes))
    network = a_network(config)
    close(found(network, a_batch()), whole)
    assert network.parts == 4


def test_memory_that_not_even_two_images_fit_into_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(steps, "_passes", never)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        training.train(DATASET, tmp_path / "run", replace(QUICK, epochs=1), VARIANT)


def test_mixed_precision_on_the_cpu_is_bfloat16_and_learns(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    network = a_network(replace(QUICK, amp=("cpu",), adversarial=ATTACK))
    layer = network.model.features[0]
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    gradients = found(network, a_batch())
    assert seen == [torch.bfloat16] * 3, "the attack's passes as well"
    assert {gradient.dtype for gradient in gradients[1:]} == {torch.float32}
    config = replace(QUICK, epochs=6, augmentation="none", amp=("cpu",))
    assert training.train(DATASET, tmp_path / "run", config, VARIANT).history[-1]["validation_accuracy"] > 0.9


def test_on_the_cpu_full_precision_is_the_default() -> None:
    for name in recipes.PRESETS:
        assert "cpu" not in recipes.preset(name).amp


def test_when_to_compile() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    auto = recipes.COMPILE["auto"]
    assert (auto(cuda, 10**6), auto(cuda, 1000), auto(cpu, 10**6)) == (True, False, False)
    assert recipes.COMPILE["always"](cpu, 1) and not recipes.COMPILE["never"](cuda, 10**6)


def test_without_a_compiler_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend(graph: object, examples: object) -> None:
        raise RuntimeError("no working C++ compiler")

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: compiled(model, backend=backend, dynamic=dynamic))
    config = replace(QUICK, epochs=1)
    training.train(DATASET, tmp_path / "compiled", replace(config, compile="always"), VARIANT)
    training.train(DATASET, tmp_path / "plain", config, VARIANT)
    assert [remark.startswith("training goes on without compiling") for remark in remarks(caplog)] == [True]
    first, second = weights(tmp_path / "compiled"), weights(tmp_path / "plain")
    assert all(torch.equal(first[name], second[name]) for name in first if "running" not in name and "num_" not in name)


compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


@pytest.mark.slow
@compiler
def test_compiling_changes_rounding_only(caplog: pytest.LogCaptureFixture) -> None:
    network = a_network()
    network.compiled = torch.compile(network.model, dynamic=False)
    close(found(network, a_batch()), found(a_network(), a_batch()), rtol=1e-3)
    assert network.compiled is not None and not remarks(caplog), "no fall back to the plain network"


@pytest.mark.slow
@compiler
def test_compiled_training_keeps_masks_and_leaves_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variant = msgspec.structs.replace(VARIANT, pruning="l1", amount=0.5, timing="pre")
    config = replace(QUICK, epochs=1, adversarial=ATTACK, learning_rate=1e-3, batch=48)
    model = pruning.prune(models.build("vgg_small", 4, width=0.5, input_size=16), "l1", 0.5, input_size=16)
    zeros = evaluation.count(model, 16).sparsity
    plain = training.train(DATASET, tmp_path / "plain", config, variant, copy.deepcopy(model))
    compiled = training.train(DATASET, tmp_path / "compiled", replace(config, compile="always"), variant, model)
    assert not remarks(caplog), "no fall back to the plain network"
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "compiled").keys()
    assert evaluation.count(runs.load(tmp_path / "compiled")[0], 16).sparsity == zeros > 0.4
    assert compiled.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=0.05)


def remarks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what this package warned of; compiling is talkative."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("toolkit")]
