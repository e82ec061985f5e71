"""Desktop measurements of a PyTorch classifier: accuracy, robustness, size, and Captum's explanations.

Captum is the reference that the vehicle's explainers are compared with. Gini and ROAD have no desktop version: the
device runtime measures them, on the desktop as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_runtime.errors import InputError, unknown
from edge_runtime.manifest import ExplainerPreset, InputSpec
from edge_runtime.path import BASELINES
from edge_runtime.preprocess import normalize
from toolkit.adversarial import PgdConfig, pgd, start_noise
from toolkit.data import Split
from toolkit.pruning import prunable_layers, size, unmasked_copy

BATCH = 256
POINTS = {"cpu": 128, "cuda": 1024}
"""Sample points that Captum takes together; on a CPU more bring nothing."""


@dataclass(frozen=True)
class Counts:
    """Size of a network: stored parameters, those not zero, multiply-accumulates of one image, and the share of zero
    weights among those of convolutions and fully connected layers."""

    parameters: int
    nonzero_parameters: int
    macs: int
    sparsity: float


def predict(model: nn.Module, images: NDArray[np.uint8], spec: InputSpec, batch: int = BATCH) -> NDArray[np.float32]:
    """Return logits [N, classes] of images uint8 [N, H, W, 3], in evaluation mode; the model's mode is kept."""
    return classify(model, batch)(normalize(images, spec))


def classify(model: nn.Module, batch: int = BATCH) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function from normalised images float32 [N, 3, H, W] to logits float32 [N, classes]."""

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        device, was_training = _device(model), model.training
        model.eval()
        try:
            with torch.no_grad():
                parts = [model(part.to(device)).float().cpu() for part in torch.from_numpy(images).split(batch)]
        finally:
            model.train(was_training)
        return torch.cat(parts).numpy()

    return logits


def accuracy(model: nn.Module, split: Split, spec: InputSpec) -> float:
    """Return the share of correctly classified images; raises InputError for an empty split."""
    _require_images(split)
    return correct(model, split, spec) / len(split.labels)


def correct(model: nn.Module, split: Split, spec: InputSpec) -> int:
    """Return how many images are classified correctly."""
    return sum(
        int((predict(model, split.images[i : i + BATCH], spec).argmax(1) == split.labels[i : i + BATCH]).sum())
        for i in range(0, len(split.labels), BATCH)
    )


def robust_accuracy(model: nn.Module, split: Split, spec: InputSpec, config: PgdConfig, seed: int = 0) -> float:
    """Return the share of images still classified correctly after the attack ``config``."""
    _require_images(split)
    generator = torch.Generator().manual_seed(seed)
    right, device = 0, _device(model)
    for start in range(0, len(split.labels), BATCH):
        part = slice(start, start + BATCH)
        images = torch.from_numpy(normalize(split.images[part], spec)).to(device)
        labels = torch.from_numpy(split.labels[part]).to(device)
        noise = start_noise(images.shape, generator)
        attacked = pgd(model, images, labels, config, spec, noise)
        right += int((classify(model)(attacked.cpu().numpy()).argmax(1) == split.labels[part]).sum())
    return right / len(split.labels)


def count(model: nn.Module, input_size: int = 32) -> Counts:
    """Count parameters, multiply-accumulates (torch-pruning's counter) and zero weights; masks count as zeros."""
    plain = unmasked_copy(model).eval()
    prunable = [layer.weight for layer in prunable_layers(plain)]
    return Counts(
        parameters=size.parameters(plain),
        nonzero_parameters=sum(int(weight.count_nonzero()) for weight in plain.parameters()),
        macs=size.macs(plain, input_size),
        sparsity=sum(int((weight == 0).sum()) for weight in prunable) / sum(weight.numel() for weight in prunable),
    )


def captum_explain(
    model: nn.Module,
    images: NDArray[np.float32],
    preset: ExplainerPreset,
    target: NDArray[np.int64],
    spec: InputSpec,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return Captum's attribution [N, C, H, W] of normalised images [N, C, H, W] for the classes ``target`` [N].

    ``preset`` names the method and its parameters; SmoothGrad's noise is drawn by ``seed``.
    """
    if preset.method not in CAPTUM:
        raise unknown("method", preset.method, CAPTUM)
    device, was_training = _device(model), model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Captum announces that it sets requires_grad on its input
            torch.manual_seed(seed)
            # Captum takes one point of every image at least: no more images than points are given at once.
            parts = zip(*(torch.from_numpy(each).split(POINTS[device.type]) for each in (images, target)), strict=True)
            attribution = [
                CAPTUM[preset.method](model, inputs.to(device), classes.to(device), preset, spec).detach().float().cpu()
                for inputs, classes in parts
            ]
    finally:
        model.train(was_training)
    return torch.cat(attribution).numpy()


def _vanilla_gradient(
    model: nn.Module, images: Tensor, target: Tensor, preset: ExplainerPreset, _: InputSpec
) -> Tensor:
    from captum.attr import Saliency

    return Saliency(model).attribute(images, target=target, abs=preset.aggregate == "magnitude")


def _integrated_gradients(
    model: nn.Module, images: Tensor, target: Tensor, preset: ExplainerPreset, spec: InputSpec
) -> Tensor:
    from captum.attr import IntegratedGradients

    start = torch.from_numpy(BASELINES[preset.baseline](spec)).to(images.device)
    return IntegratedGradients(model).attribute(
        images,
        baselines=start.view(1, 3, 1, 1).expand_as(images),
        target=target,
        n_steps=preset.samples,
        method=CAPTUM_QUADRATURES[preset.quadrature],
        internal_batch_size=POINTS[images.device.type],
    )


def _smooth_grad(model: nn.Module, images: Tensor, target: Tensor, preset: ExplainerPreset, _: InputSpec) -> Tensor:
    from captum.attr import NoiseTunnel, Saliency

    return NoiseTunnel(Saliency(model)).attribute(
        images,
        nt_type="smoothgrad",
        nt_samples=preset.samples,
        nt_samples_batch_size=max(1, POINTS[images.device.type] // len(images)),
        stdevs=preset.sigma,
        target=target,
        abs=preset.aggregate == "magnitude",
    )


CAPTUM: dict[str, Callable[[nn.Module, Tensor, Tensor, ExplainerPreset, InputSpec], Tensor]] = {
    "vg": _vanilla_gradient,
    "ig": _integrated_gradients,
    "sg": _smooth_grad,
}
CAPTUM_QUADRATURES = {"gauss-legendre": "gausslegendre", "riemann-trapezoid": "riemann_trapezoid"}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _require_images(split: Split) -> None:
    if not len(split.labels):
        raise InputError("the split holds no images to measure on; choose another split")
