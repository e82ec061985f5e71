"""Projected gradient descent in the L-infinity norm (Madry et al. 2018), for training and for robust accuracy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_runtime.errors import InputError, unknown
from edge_runtime.manifest import InputSpec
from toolkit.data.loader import moved


@dataclass(frozen=True)
class PgdConfig:
    """An L-infinity attack.

    ``eps`` is the radius and ``step`` the length of one of the ``steps``. In ``space`` "pixel" both are shares of the
    [0, 1] pixel range and results stay valid images; in "normalised" both apply to the normalised input as it is,
    without clipping, as the authors' code does. ``against`` is the label or the model's own prediction on the clean
    image, the default of the library that the authors call.
    """

    eps: float = 0.01
    step: float = 0.001
    steps: int = 40
    space: Literal["pixel", "normalised"] = "pixel"
    random_start: bool = True
    against: Literal["label", "prediction"] = "label"

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise InputError(f"eps {self.eps:g} is outside (0, 1]; it is a share of the pixel range")
        if not (self.step > 0 and self.steps > 0):
            raise InputError(f"attack with {self.steps} steps of {self.step:g}: both must be positive")


def _paper(eps: float) -> PgdConfig:
    return PgdConfig(eps=eps, step=eps / 10, steps=40)


def _authors_code(eps: float) -> PgdConfig:
    return PgdConfig(eps=eps, step=eps / 10, steps=40, space="normalised", against="prediction")


def _fast(eps: float) -> PgdConfig:
    """Five steps of eps/2 reach every point of the ball: enough for a demonstration on a CPU."""
    return PgdConfig(eps=eps, step=eps / 2, steps=5)


def _pgd_20(eps: float) -> PgdConfig:
    """What robust accuracy is usually reported under: 20 steps that reach twice across the radius."""
    return PgdConfig(eps=eps, step=eps / 10, steps=20)


PRESETS: dict[str, tuple[Callable[[float], PgdConfig], float]] = {
    "paper": (_paper, 0.01),
    "authors-code": (_authors_code, 0.1),
    "fast": (_fast, 0.01),
    "pgd-20": (_pgd_20, 0.01),
}
"""Name -> (configuration for a radius, the radius used there)."""


def preset(name: str, eps: float | None = None) -> PgdConfig:
    """Return the attack of a preset, at its own radius unless ``eps`` is given."""
    if name not in PRESETS:
        raise unknown("attack preset", name, PRESETS)
    configure, default = PRESETS[name]
    return configure(default if eps is None else eps)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: PgdConfig,
    spec: InputSpec,
    noise: Tensor | None = None,
) -> Tensor:
    """Return adversarial versions of normalised ``images`` [N, 3, H, W], detached, within ``config``'s ball.

    The model is attacked in evaluation mode, so batch norm statistics and dropout do not take part, and is returned
    to its mode. Only the input's gradient is computed. ``noise`` [N, 3, H, W] (see :func:`start_noise`) decides the
    random start; without it PyTorch's global random state does.
    """
    radius, step, low, high = _bounds(images, config, spec)
    was_training = model.training
    model.eval()
    try:
        with frozen(model):
            if config.against == "prediction":
                with torch.no_grad():
                    labels = model(images).argmax(1)
            adversarial = images.detach()
            if config.random_start:
                noise = start_noise(images.shape) if noise is None else noise
                adversarial = (adversarial + moved(noise, images.device) * radius).clamp(low, high)
            for _ in range(config.steps):
                adversarial.requires_grad_()
                loss = F.cross_entropy(model(adversarial).float(), labels)
                (gradient,) = torch.autograd.grad(loss, adversarial)
                adversarial = (adversarial.detach() + step * gradient.sign()).clamp(low, high)
    finally:
        model.train(was_training)
    return adversarial.detach()


def start_noise(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Return noise, uniform in -1 .. 1, on the CPU: every device and any number of processes start from the same."""
    return torch.rand(shape, generator=generator) * 2 - 1


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient inside.

    Layers then keep no inputs for the gradients of their weights, and a compiled network does not compute those.
    """
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_()


@lru_cache(maxsize=16)
def channel_statistics(spec: InputSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [1, 3, 1, 1] on ``device``; made once, for a copy to a GPU waits for it."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return mean, std


def _bounds(images: Tensor, config: PgdConfig, spec: InputSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return radius and step per channel in normalised space, and the box that results must stay in."""
    mean, std = channel_statistics(spec, images.device)
    unit = torch.ones_like(std) if config.space == "normalised" else std
    radius = config.eps / unit
    low, high = images - radius, images + radius
    if config.space == "pixel":
        low, high = torch.maximum(low, -mean / std), torch.minimum(high, (1 - mean) / std)
    return radius, config.step / unit, low, high
