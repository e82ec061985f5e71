"""onnxruntime's float32 gradient against PyTorch at 32x32, where a unit that flips at its kink is rare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from export.gradients import add_input_gradient
from export.to_onnx import to_onnx
from tests.export.gradients.classifiers import relative, session
from toolkit import models

CLASSES = 10
SIZE = 32


def smooth_images(count: int, seed: int) -> np.ndarray:
    """Return images with the spectrum of photographs, 1 / f, normalised: [count, 3, SIZE, SIZE]."""
    noise = np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :])
    images = np.fft.ifft2(np.fft.fft2(noise) / np.maximum(frequency, 1 / SIZE)).real
    images -= images.mean((2, 3), keepdims=True)
    return (images / images.std((2, 3), keepdims=True)).astype(np.float32)


def trained(module: nn.Module) -> nn.Module:
    """Return ``module`` after a few steps towards random labels: weights that are no longer independent."""
    torch.manual_seed(1)
    images, labels = torch.from_numpy(smooth_images(32, seed=2)), torch.arange(32) % CLASSES
    optimiser = torch.optim.Adam(module.train().parameters(), 1e-3)
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimiser.step()
    return module.eval()


@pytest.mark.parametrize(
    ("architecture", "state"), [("vgg16", "random"), ("vgg16_bn", "trained"), ("resnet18", "trained")]
)
def test_every_class_and_batches_of_one_and_eight(architecture: str, state: str) -> None:
    torch.manual_seed(0)
    module = models.build(architecture, CLASSES, width=0.25, input_size=SIZE).eval()
    if state == "trained":
        module = trained(module)
    opened = session(add_input_gradient(to_onnx(module, input_size=(SIZE, SIZE))))
    noise = np.random.default_rng(3).standard_normal((8, 3, SIZE, SIZE)).astype(np.float32)
    for images in (smooth_images(8, seed=4), noise, noise[:1]):
        x = torch.from_numpy(images).requires_grad_()
        logits = module(x)
        for target in range(CLASSES):
            (expected,) = torch.autograd.grad(logits[:, target].sum(), x, retain_graph=True)
            feeds = {"image": images, "target": np.full(len(images), target)}
            found_logits, gradient = opened.run(["logits", "gradient"], feeds)
            assert relative(found_logits, logits) < 1e-4
            assert relative(gradient, expected) < 1e-4
