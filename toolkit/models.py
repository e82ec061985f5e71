"""The classifiers: the paper's VGG-16, smaller relatives of it, ResNet-18, and every torchvision classifier by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from edge_runtime.errors import InputError, unknown

CHANNEL_MULTIPLE = 8
"""Scaled channel counts are multiples of this: engines pad other counts and run no faster."""

MAX_INPUT_SIZE = 4096
MAX_WIDTH = 16.0

# Channels of the convolutions of each stage; every stage ends in a 2x2 max-pool.
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG_SMALL = ((16, 16), (32, 32), (64, 64), (64, 64))


class VGG(nn.Module):
    """3x3 convolutions with bias in stages, then ``head`` on the flattened last feature map."""

    def __init__(self, stages: tuple[tuple[int, ...], ...], head: Callable[[int], nn.Sequential], batch_norm: bool):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in stages:
            for out in stage:
                layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=1))
                layers += [nn.BatchNorm2d(out)] if batch_norm else []
                layers.append(nn.ReLU())
                channels = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = head(channels)
        _initialise_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of normalised images [N, 3, H, W]."""
        return self.classifier(self.features(images).flatten(1))


def build(architecture: str, classes: int, *, width: float = 1.0, input_size: int = 32, seed: int = 0) -> nn.Module:
    """Return a randomly initialised classifier in training mode, reproducible by ``seed``.

    ``architecture`` is a key of :data:`ARCHITECTURES` or the name of a torchvision classifier; ``width`` multiplies
    the channel counts (rounded to multiples of 8; own architectures only); images are ``input_size`` pixels square.
    The global random state is left untouched. Raises InputError for an unknown name or an impossible combination.
    """
    _check(classes, width, input_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        builder = ARCHITECTURES.get(architecture)
        model = (
            builder(classes, width, input_size)
            if builder
            else _torchvision_classifier(architecture, classes, width, input_size)
        )
    check_forward(model, architecture, classes, input_size)
    return model.train()


def names() -> list[str]:
    """Return every name that :func:`build` knows, own architectures first."""
    own = list(ARCHITECTURES)
    return own + [name for name in _torchvision_names() if name not in ARCHITECTURES]


def scale(channels: int, width: float) -> int:
    """Return ``channels * width`` rounded to a multiple of 8, at least 8."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


def _vgg16(classes: int, width: float, input_size: int) -> nn.Module:
    """The paper's VGG-16: 13 convolutions with bias, no batch norm, three fully connected layers (PROTOCOL, models)."""
    return VGG(_scaled_stages(_VGG16, width), _three_layer_head(classes, width, input_size), batch_norm=False)


def _vgg16_bn(classes: int, width: float, input_size: int) -> nn.Module:
    """VGG-16 with batch normalisation after every convolution."""
    return VGG(_scaled_stages(_VGG16, width), _three_layer_head(classes, width, input_size), batch_norm=True)


def _vgg_small(classes: int, width: float, input_size: int) -> nn.Module:
    """Eight convolutions with batch normalisation and one fully connected layer: trains in minutes on a CPU."""
    side = _final_side(_VGG_SMALL, input_size)

    def head(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Dropout(0.2), nn.Linear(channels * side * side, classes))

    return VGG(_scaled_stages(_VGG_SMALL, width), head, batch_norm=True)


def _resnet18(classes: int, width: float, input_size: int) -> nn.Module:
    """torchvision's ResNet-18, every channel count scaled by ``width``."""
    model = torchvision.models.resnet18(weights=None, num_classes=classes)
    if width != 1.0:
        for name, module in list(model.named_modules()):
            scaled = _scaled_layer(module, width)
            if scaled is not None:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, scaled)
        _initialise_convolutions(model)
    return model


ARCHITECTURES: dict[str, Callable[[int, float, int], nn.Module]] = {
    "vgg16": _vgg16,
    "vgg16_bn": _vgg16_bn,
    "vgg_small": _vgg_small,
    "resnet18": _resnet18,
}
"""Name -> builder(classes, width, input_size). They shadow torchvision's models of the same name."""


def _torchvision_classifier(name: str, classes: int, width: float, input_size: int) -> nn.Module:
    if name not in _torchvision_names():
        raise unknown("model", name, names())
    if width != 1.0:
        raise InputError(f"width {width:g} with {name}: only {', '.join(ARCHITECTURES)} can be scaled; use width 1")
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    for prefix, extra in _TORCHVISION_OPTIONS.items():
        options |= extra(input_size) if name.startswith(prefix) else {}
    try:
        return torchvision.models.get_model(name, **options)
    except (AssertionError, ValueError) as error:  # vision transformers refuse sizes that do not fit their patches
        reason = str(error).splitlines()[0]
        raise InputError(f"{name} cannot be built for {input_size}x{input_size} pixels: {reason}") from error


# Constructor arguments that only some families need: no second output at training time, or a fixed input size.
_TORCHVISION_OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "googlenet": lambda size: {"aux_logits": False, "init_weights": True},
    "inception": lambda size: {"aux_logits": False, "init_weights": True},
    "vit_": lambda size: {"image_size": size},
    "maxvit": lambda size: {"input_size": (size, size)},
}


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _scaled_stages(stages: tuple[tuple[int, ...], ...], width: float) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(scale(channels, width) for channels in stage) for stage in stages)


def _final_side(stages: tuple[tuple[int, ...], ...], input_size: int) -> int:
    side = input_size // 2 ** len(stages)
    if side == 0:
        raise InputError(
            f"input size {input_size} is too small for {len(stages)} halvings; use at least {2 ** len(stages)} pixels"
        )
    return side


def _three_layer_head(classes: int, width: float, input_size: int) -> Callable[[int], nn.Sequential]:
    side, hidden = _final_side(_VGG16, input_size), scale(512, width)

    def head(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    return head


def _scaled_layer(module: nn.Module, width: float) -> nn.Module | None:
    def channels(count: int) -> int:
        return 3 if count == 3 else scale(count, width)

    if isinstance(module, nn.Conv2d):
        sizes = channels(module.in_channels), channels(module.out_channels)
        return nn.Conv2d(*sizes, module.kernel_size, module.stride, module.padding, bias=module.bias is not None)
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d(channels(module.num_features))
    if isinstance(module, nn.Linear):
        return nn.Linear(channels(module.in_features), module.out_features)
    return None


def _initialise_convolutions(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, sqrt(2 / (k * k * out))) and zero its bias (PROTOCOL, models)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check(classes: int, width: float, input_size: int) -> None:
    if classes < 2:
        raise InputError(f"{classes} classes: a classifier needs at least 2")
    if not 0 < width <= MAX_WIDTH:
        raise InputError(f"width {width:g} is outside (0, {MAX_WIDTH:g}]; 1 is the published size")
    if not 1 <= input_size <= MAX_INPUT_SIZE:
        raise InputError(f"input size {input_size} is outside 1..{MAX_INPUT_SIZE} pixels")


def check_forward(model: nn.Module, architecture: str, classes: int, input_size: int) -> None:
    """Run the shapes through the model on torch's meta device, which neither computes nor allocates."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    images = torch.empty(1, 3, input_size, input_size, device="meta")
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = torch.func.functional_call(model, shapes, (images,))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{architecture} cannot take {input_size}x{input_size} pixels: {reason}; choose another input size"
        ) from error
    if tuple(logits.shape) != (1, classes):
        raise InputError(f"{architecture} returns shape {tuple(logits.shape)}, not logits [N, {classes}]")
