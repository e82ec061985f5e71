"""How to train: the configuration, the tables it draws from, and the presets of the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from edge_runtime.errors import InputError, unknown
from toolkit.adversarial import PgdConfig
from toolkit.data.loader import DEFAULT_AUGMENTATION, Augmentation

DEFAULT_PRESET = "paper"


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of one training; the defaults are the paper's for VGG-16 (PROTOCOL, models and training).

    ``momentum`` is used by sgd only. ``adversarial`` replaces every batch by attacked images. ``train_mode_epochs``
    switches the network to evaluation mode (no dropout) after so many epochs, as the authors' code does by accident.
    ``amp`` names the kinds of device that compute in bfloat16 where that is safe, ``channels_last`` those that use this
    memory layout. ``compile`` is a key of :data:`COMPILE`. ``device`` is cpu, cuda, or auto.
    """

    epochs: int = 100
    batch: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    augmentation: str = "none"
    label_smoothing: float = 0.0
    adversarial: PgdConfig | None = None
    train_mode_epochs: int | None = None
    amp: tuple[str, ...] = ("cuda",)
    channels_last: tuple[str, ...] = ("cuda",)
    compile: str = "auto"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        choices: list[tuple[str, str, Collection[str]]] = [
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("augmentation", self.augmentation, AUGMENTATIONS),
            ("compile", self.compile, COMPILE),
            ("device", self.device, DEVICES),
            *(("kind of device", name, KINDS) for name in (*self.amp, *self.channels_last)),
        ]
        for kind, name, table in choices:
            if name not in table:
                raise unknown(kind, name, table)
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(f"{field} {value:g} is outside {low:g} .. {high:g}")


RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch": (2, 65_536),
    "learning_rate": (1e-12, 1e3),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.99),
    "seed": (0, 2**63 - 1),
}
"""Smallest and largest sensible value of each number."""


def _sgd(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    return torch.optim.SGD(parameters, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def _adam(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    return torch.optim.Adam(parameters, config.learning_rate, weight_decay=config.weight_decay)


def _adamw(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    return torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)


def _ranger(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    """RAdam + Lookahead, which the paper trains ResNet-18 with (eps 1e-6)."""
    try:
        from pytorch_optimizer import Ranger
    except ImportError:
        raise InputError("optimizer 'ranger' needs another package; pip install pytorch-optimizer") from None
    return Ranger(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, eps=1e-6)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], TrainConfig], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "ranger": _ranger,
}


def _one_cycle(progress: float) -> float:
    """Rise linearly during the first quarter, then fall as a cosine to 0 (after Smith 2018)."""
    rise = 0.25
    return progress / rise if progress < rise else 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "one-cycle": _one_cycle,
}
"""Name -> factor of the learning rate at a share 0..1 of all steps. Pure functions: nothing to store on resume."""

AUGMENTATIONS: dict[str, Augmentation | None] = {"none": None, "light": DEFAULT_AUGMENTATION}

KINDS = ("cpu", "cuda")
"""Of devices: what ``amp`` and ``channels_last`` may name."""
LONG = 50_000
"""Passes of a training for which compiling, a minute or so, is expected to pay on a GPU."""

COMPILE: dict[str, Callable[[torch.device, int], bool]] = {
    "auto": lambda device, passes: device.type == "cuda" and passes >= LONG,
    "always": lambda device, passes: True,
    "never": lambda device, passes: False,
}
"""Name -> whether to compile the network on a device for so many passes, those of attacks included."""

DEVICES: dict[str, Callable[[], Any]] = {
    "auto": lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    "cpu": lambda: torch.device("cpu"),
    "cuda": lambda: torch.device("cuda"),
}


def device(config: TrainConfig) -> torch.device:
    """Return the device to train on; raises InputError where CUDA is asked for and missing."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available on this machine; use cpu or auto")
    return DEVICES[config.device]()


def _paper(architecture: str, dataset: str, fine_tune: bool) -> TrainConfig:
    """As published, except that ResNet-18 does not start from ImageNet weights, which would have to be downloaded."""
    config = TrainConfig()
    if architecture == "resnet18":
        config = replace(config, optimizer="ranger", learning_rate=1e-4, batch=8, weight_decay=0.0)
    return replace(config, epochs=50) if fine_tune else config


def _authors_code(architecture: str, dataset: str, fine_tune: bool) -> TrainConfig:
    """As committed; Ranger stands in for RangerAdaBelief, of which no maintained implementation exists."""
    config = TrainConfig(train_mode_epochs=1)
    if architecture == "resnet18":
        config = replace(_paper(architecture, dataset, False), epochs=30)
    if fine_tune and dataset.startswith("gtsrb"):
        return replace(config, epochs=50, optimizer="ranger", learning_rate=1e-4, weight_decay=0.0)
    return replace(config, epochs=100) if fine_tune else config


def _fast(architecture: str, dataset: str, fine_tune: bool) -> TrainConfig:
    """Minutes on a CPU: one cycle of the learning rate and light augmentation, chosen on validation images."""
    config = TrainConfig(
        epochs=6,
        batch=64,
        learning_rate=0.05,
        schedule="one-cycle",
        augmentation="light",
        label_smoothing=0.05,
        channels_last=("cpu", "cuda"),  # on a CPU 20 to 25 % faster for the small VGG, but slower for wide networks
    )
    return replace(config, epochs=2, learning_rate=0.01) if fine_tune else config


PRESETS: dict[str, Callable[[str, str, bool], TrainConfig]] = {
    "paper": _paper,
    "authors-code": _authors_code,
    "fast": _fast,
}


def preset(
    name: str = DEFAULT_PRESET, *, architecture: str = "vgg16", dataset: str = "", fine_tune: bool = False
) -> TrainConfig:
    """Return a preset's configuration for an architecture and data set name, for training or for fine-tuning."""
    if name not in PRESETS:
        raise unknown("training preset", name, PRESETS)
    return PRESETS[name](architecture, dataset, fine_tune)
