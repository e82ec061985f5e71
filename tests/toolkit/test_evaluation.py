from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import InputError
from edge_runtime.manifest import PRESETS, ExplainerPreset
from edge_runtime.path import baseline_image, sample_path
from edge_runtime.preprocess import normalize
from tests.toolkit.squares import DATASET
from toolkit import evaluation, models, pruning, training
from toolkit.adversarial import PgdConfig
from toolkit.data import Split

SPEC = training.input_spec(DATASET)
IMAGES = normalize(DATASET.test.images[:5], SPEC)
TARGET = np.array([0, 1, 2, 3, 0])
ALL = [(family, method) for family in PRESETS for method in PRESETS[family]]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Barely trained, so that predictions differ from chance and attacks find something to attack."""
    network = models.build("vgg_small", 4, input_size=16)
    images, labels = torch.from_numpy(normalize(DATASET.train.images, SPEC)), torch.from_numpy(DATASET.train.labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


def gradient(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    inputs = torch.from_numpy(images).requires_grad_()
    model.eval()(inputs)[torch.arange(len(images)), torch.from_numpy(TARGET)].sum().backward()
    assert isinstance(inputs.grad, Tensor)
    return inputs.grad.numpy()


def test_prediction_uses_the_vehicles_preprocessing_and_keeps_the_mode(model: nn.Module) -> None:
    model.train()
    logits = evaluation.predict(model, DATASET.test.images, SPEC, batch=7)
    assert model.training
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(normalize(DATASET.test.images, SPEC))).numpy()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_accuracy_counts_all_batches(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (evaluation.predict(model, DATASET.test.images, SPEC).argmax(1) == DATASET.test.labels).mean()
    monkeypatch.setattr(evaluation, "BATCH", 33)
    assert evaluation.accuracy(model, DATASET.test, SPEC) == expected > 0.5


def test_robust_accuracy_falls_with_the_radius(model: nn.Module) -> None:
    weak, strong = PgdConfig(eps=1e-4, step=1e-4, steps=1), PgdConfig(eps=0.2, step=0.05, steps=8)
    natural = evaluation.accuracy(model, DATASET.test, SPEC)
    assert evaluation.robust_accuracy(model, DATASET.test, SPEC, weak) == pytest.approx(natural, abs=0.03)
    assert evaluation.robust_accuracy(model, DATASET.test, SPEC, strong) < natural - 0.3


def test_an_empty_split_is_refused(model: nn.Module) -> None:
    empty = Split(DATASET.test.images[:0], DATASET.test.labels[:0], None)
    with pytest.raises(InputError, match="holds no images"):
        evaluation.accuracy(model, empty, SPEC)


def test_counts_of_the_papers_network() -> None:
    counts = evaluation.count(models.build("vgg16", 43))
    assert counts.parameters == 15_262_059
    assert counts.macs == pytest.approx(313.7e6, rel=0.01)  # 13 convolutions and three linear layers, summed by hand
    assert counts.sparsity == 0


def test_masks_count_as_zeros_but_save_no_work(model: nn.Module) -> None:
    before, after = evaluation.count(model, 16), evaluation.count(pruning.prune(model, "global", input_size=16), 16)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert after.sparsity == pytest.approx(0.2, abs=1e-3)
    weights = sum(layer.weight.numel() for layer in pruning.prunable_layers(model))
    assert before.nonzero_parameters - after.nonzero_parameters == pytest.approx(0.2 * weights, abs=10)


@pytest.mark.parametrize(("family", "method"), ALL)
def test_captum_explains_with_every_preset(model: nn.Module, family: str, method: str) -> None:
    model.train()
    found = evaluation.captum_explain(model, IMAGES, PRESETS[family][method], TARGET, SPEC)
    assert model.training
    assert found.shape == IMAGES.shape
    assert found.dtype == np.float32
    assert np.abs(found).max() > 0
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in model.parameters())


def test_vanilla_gradient_is_autograds(model: nn.Module) -> None:
    found = evaluation.captum_explain(model, IMAGES, PRESETS["paper"]["vg"], TARGET, SPEC)
    np.testing.assert_allclose(found, gradient(model, IMAGES), atol=1e-6)


@pytest.mark.parametrize("family", PRESETS)
def test_integrated_gradients_use_the_nodes_of_the_vehicle(model: nn.Module, family: str) -> None:
    preset = PRESETS[family]["ig"]
    path, start = sample_path(preset), baseline_image(preset, SPEC)
    total = sum(
        weight * gradient(model, (start + scale * (IMAGES - start)).astype(np.float32))
        for scale, weight in zip(path.scale, path.weight, strict=True)
    )
    found = evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC)
    np.testing.assert_allclose(found, total * (IMAGES - start), atol=1e-4 * np.abs(found).max())


def test_integrated_gradients_add_up_to_the_change_of_the_logit(model: nn.Module) -> None:
    preset = msgspec.structs.replace(PRESETS["paper"]["ig"], samples=300)
    found = evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC).sum((1, 2, 3))
    ends = np.concatenate([IMAGES, baseline_image(preset, SPEC)[None]])
    logits = evaluation.classify(model)(ends)
    change = logits[np.arange(5), TARGET] - logits[5, TARGET]
    np.testing.assert_allclose(found, change, atol=0.03 * np.abs(change).max())


def test_smooth_grad_is_decided_by_its_seed_alone(model: nn.Module) -> None:
    preset = PRESETS["paper"]["sg"]
    torch.manual_seed(1)
    first = evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC, seed=3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert np.array_equal(first, evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC, seed=3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.array_equal(first, evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC, seed=4))


def test_smooth_grad_without_noise_is_the_gradient(model: nn.Module) -> None:
    preset = ExplainerPreset(method="sg", samples=3, sigma=0.0)
    found = evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC)
    np.testing.assert_allclose(found, gradient(model, IMAGES), atol=1e-6)
    magnitude = evaluation.captum_explain(
        model, IMAGES, msgspec.structs.replace(preset, aggregate="magnitude"), TARGET, SPEC
    )
    np.testing.assert_allclose(magnitude, np.abs(found), atol=1e-6)


@pytest.mark.parametrize("method", ["vg", "ig"])
def test_more_images_than_points_are_explained_in_parts(
    model: nn.Module, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation.captum_explain(model, IMAGES, PRESETS["paper"][method], TARGET, SPEC)
    taken = []
    with monkeypatch.context() as patch, model.register_forward_pre_hook(lambda _, args: taken.append(len(args[0]))):
        patch.setitem(evaluation.POINTS, "cpu", 2)
        found = evaluation.captum_explain(model, IMAGES, PRESETS["paper"][method], TARGET, SPEC)
    assert max(taken) == 2
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())


def test_an_unknown_method_is_refused(model: nn.Module) -> None:
    preset = msgspec.structs.replace(PRESETS["paper"]["vg"], method="gc")
    with pytest.raises(InputError, match="unknown method 'gc'"):
        evaluation.captum_explain(model, IMAGES, preset, TARGET, SPEC)
