from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import InputError
from edge_runtime.manifest import InputSpec
from toolkit import adversarial, models
from toolkit.adversarial import PgdConfig, pgd, start_noise
from toolkit.data import MEAN, STD
from toolkit.training import prepare

SPEC = InputSpec(height=16, width=16, mean=MEAN, std=STD)


def pixels(images: Tensor) -> Tensor:
    """Undo the normalisation."""
    return images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return models.build("vgg_small", 4, width=0.5, input_size=16).eval()


@pytest.fixture
def images() -> Tensor:
    """Normalised images with saturated pixels, where clipping shows."""
    raw = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    raw[:, :, :4], raw[:, :, 4:8] = 0.0, 1.0
    return prepare(raw, SPEC)


@pytest.fixture
def labels(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).argmax(1)


def test_the_attack_stays_in_the_ball_and_in_the_image_range(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    config = PgdConfig(eps=0.03, step=0.01, steps=6)
    attacked = pixels(pgd(model, images, labels, config, SPEC))
    assert (attacked - pixels(images)).abs().max() <= 0.03 + 1e-6
    assert attacked.min() >= -1e-6
    assert attacked.max() <= 1 + 1e-6
    # The ball's radius is the same number of pixel levels in every channel, although their deviations differ.
    assert (attacked - pixels(images)).abs().amax(dim=(0, 2, 3)).tolist() == pytest.approx([0.03] * 3, abs=1e-5)


def test_the_authors_variant_moves_normalised_values_without_clipping(
    model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attacked = pgd(model, images, labels, adversarial.preset("authors-code", 0.1), SPEC)
    assert (attacked - images).abs().max().item() == pytest.approx(0.1, abs=1e-5)
    assert pixels(attacked).min() < -1e-3


def test_the_attack_raises_the_loss(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    def loss(inputs: Tensor) -> float:
        return nn.functional.cross_entropy(model(inputs), labels).item()

    config = PgdConfig(eps=0.05, step=0.02, steps=8)
    noise = PgdConfig(eps=0.05, step=1e-9, steps=1)
    assert loss(pgd(model, images, labels, config, SPEC)) > loss(pgd(model, images, labels, noise, SPEC)) + 0.05


def test_only_the_input_gets_a_gradient_and_the_mode_is_kept(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    model.train()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    attacked = pgd(model, images, labels, PgdConfig(steps=2), SPEC)
    assert model.training
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    model.eval()


def test_the_noise_decides_the_random_start(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    def attack(seed: int) -> Tensor:
        noise = start_noise(images.shape, torch.Generator().manual_seed(seed))
        return pgd(model, images, labels, PgdConfig(steps=1), SPEC, noise)

    assert torch.equal(attack(1), attack(1))
    assert not torch.equal(attack(1), attack(2))


def test_presets_are_the_protocols() -> None:
    paper, code = adversarial.preset("paper"), adversarial.preset("authors-code")
    assert (paper.eps, paper.step, paper.steps, paper.space) == (0.01, 0.001, 40, "pixel")
    assert (code.eps, code.steps, code.space) == (0.1, 40, "normalised")
    assert adversarial.preset("paper", 0.1).step == pytest.approx(0.01)
    usual = adversarial.preset("pgd-20", 0.05)
    assert (usual.steps, usual.step, usual.space) == (20, pytest.approx(0.005), "pixel")
    with pytest.raises(InputError, match="unknown attack preset 'papr'; nearest: paper"):
        adversarial.preset("papr")


@pytest.mark.parametrize("values", [{"eps": 0.0}, {"eps": 8.0}, {"step": 0.0}, {"step": -1.0}, {"steps": 0}])
def test_impossible_attacks_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        PgdConfig(**values)
