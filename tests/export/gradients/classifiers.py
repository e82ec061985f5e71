"""Small classifiers of the families that the tests share: the PyTorch module and its export, made once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import convnext, efficientnet, mobilenetv3, swin_transformer, vision_transformer

from export.to_onnx import to_onnx
from toolkit import models

CLASSES = 10
SIZE = {"vgg16": 32, "resnet18": 64}


@lru_cache
def classifier(architecture: str, width: float = 0.25) -> tuple[nn.Module, onnx.ModelProto]:
    """Return a randomly initialised network in eval mode and its ONNX graph, both for images of ``SIZE``."""
    size = SIZE[architecture]
    torch.manual_seed(0)
    module = models.build(architecture, CLASSES, width=width, input_size=size).eval()
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # Captum's hooks need the values that an in-place layer overwrites
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)  # zero at first, so that the network would scale with its input
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module, to_onnx(module, input_size=(size, size))


def images(architecture: str, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return normalised noise images [count, 3, H, W]."""
    size = SIZE[architecture]
    return np.random.default_rng(seed).standard_normal((count, 3, size, size), dtype=np.float32)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session on onnxruntime's CPU provider, quiet and on one thread."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, **feeds: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Run a model once and return its outputs by name."""
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feeds), strict=True))


def relative(found: NDArray[np.generic] | torch.Tensor, expected: NDArray[np.generic] | torch.Tensor) -> float:
    """Return the relative L2 error of ``found``."""
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (found, expected))
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def mobilenet() -> nn.Module:
    """MobileNetV3's two kinds of blocks, one with squeeze-and-excitation and hard swish."""
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    settings = [
        block(16, 3, 24, 16, use_se=False, activation="RE", stride=2),
        block(16, 5, 32, 16, use_se=True, activation="HS", stride=1),
    ]
    return mobilenetv3.MobileNetV3(settings, last_channel=32, num_classes=CLASSES)


def efficient_net() -> nn.Module:
    """EfficientNet's mobile blocks, with and without a residual."""
    block = partial(efficientnet.MBConvConfig, width_mult=1.0, depth_mult=1.0)
    settings = [block(1, 3, 1, 16, 16, 1), block(4, 5, 2, 16, 24, 1)]
    return efficientnet.EfficientNet(settings, dropout=0.0, num_classes=CLASSES, last_channel=32)


def conv_next() -> nn.Module:
    """ConvNeXt with one block a stage."""
    settings = [convnext.CNBlockConfig(16, 24, 1), convnext.CNBlockConfig(24, None, 1)]
    return convnext.ConvNeXt(settings, num_classes=CLASSES)


def vision() -> nn.Module:
    """A vision transformer of one layer with two heads."""
    module = vision_transformer.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=CLASSES)
    nn.init.normal_(module.heads.head.weight, std=0.1)  # starts at zero, which gives gradients of zero
    return module


def swin() -> nn.Module:
    """A Swin transformer of two stages, the first with a shifted window."""
    return swin_transformer.SwinTransformer([4, 4], 16, [2, 1], [2, 2], [4, 4], num_classes=CLASSES)


MINIATURES: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3": mobilenet,
    "efficientnet": efficient_net,
    "convnext": conv_next,
    "vit": vision,
    "swin": swin,
}


@lru_cache
def miniature(family: str) -> onnx.ModelProto:
    """Return the export of a miniature of a family, for images of 32x32."""
    torch.manual_seed(0)
    return to_onnx(MINIATURES[family]().eval(), input_size=(32, 32))
