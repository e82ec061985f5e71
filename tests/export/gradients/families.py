"""torchvision's classifiers: every builder at the smallest images it takes, and a miniature of each family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.googlenet import Inception
from torchvision.models.inception import InceptionA, InceptionB
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from tests.export.gradients.exactness import CLASSES

Size = tuple[int, int]

# ---- every builder ---------------------------------------------------------------------------------------------------

# The smallest images where 32x32 are too small: for the network, or for its last ReLU to leave a logit alive.
SIZES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "squeezenet1_0": 64, "squeezenet1_1": 64}
SIZES |= {"vit_h_14": 28, "vit_b_32": 64, "vit_l_32": 64}
SMALLEST = 32
# Identical layers beyond these are dropped where the double-precision model would not fit into ONNX's 2 GB.
SHORTENED = {
    "vit_l_16": ("encoder.layers", 8),
    "vit_l_32": ("encoder.layers", 8),
    "vit_h_14": ("encoder.layers", 4),
    "regnet_y_128gf": ("trunk_output.block3", 3),
}


def build(name: str) -> tuple[nn.Module, Size]:
    """Return torchvision's classifier ``name`` with random weights, and the image size to test it at."""
    torch.manual_seed(0)
    size = SIZES.get(name, SMALLEST)
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "aux_logits": name == "googlenet"}
    module = tv.get_model(name, num_classes=CLASSES, **options)
    if name in SHORTENED:
        path, layers = SHORTENED[name]
        parent, _, child = path.rpartition(".")
        owner = module.get_submodule(parent)
        setattr(owner, child, nn.Sequential(*list(getattr(owner, child))[:layers]))
    return module, (size, size)


# ---- miniatures: the family's own blocks, few and narrow -------------------------------------------------------------


def googlenet() -> nn.Module:
    pools = [nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3), pools[0], Inception(16, 8, 8, 16, 4, 8, 8), *pools[1:], nn.Linear(40, CLASSES)
    )


def inception() -> nn.Module:
    pools = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), InceptionA(16, 8), InceptionB(232), *pools, nn.Linear(712, CLASSES))


def mnasnet() -> nn.Module:
    pools = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*tv.MNASNet(0.25).layers[:11], *pools, nn.Linear(24, CLASSES))


def mobilenet_v3() -> nn.Module:
    block = partial(InvertedResidualConfig, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2, 1),
        block(16, 3, 24, 24, False, "HS", 2, 1),
        block(24, 5, 32, 24, True, "HS", 1, 2),
    ]
    return tv.MobileNetV3(blocks, 32, num_classes=CLASSES)


def efficientnet(version: int) -> nn.Module:
    fused = FusedMBConvConfig(4, 3, 2, 16, 16, 1) if version == 2 else MBConvConfig(1, 3, 1, 16, 16, 1)
    blocks = [fused, MBConvConfig(4, 3, 2, 16, 24, 2), MBConvConfig(4, 5, 1, 24, 24, 1)]
    return tv.EfficientNet(blocks, 0.2, num_classes=CLASSES, last_channel=64)


def regnet(ratio: float | None) -> nn.Module:
    params = BlockParams.from_init_params(depth=4, w_0=16, w_a=8.0, w_m=2.0, group_width=8, se_ratio=ratio)
    return tv.RegNet(params, num_classes=CLASSES, stem_width=16)


def swin(**options: Any) -> nn.Module:
    return tv.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [2, 2], num_classes=CLASSES, **options)


def resnet(block: type[BasicBlock] | type[Bottleneck], **options: Any) -> nn.Module:
    module = tv.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES, **options)  # type: ignore[list-item]
    module.layer3 = module.layer4 = nn.Identity()  # type: ignore[assignment]
    module.fc = nn.Linear(128 * block.expansion, CLASSES)
    return module


MINIATURES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "AlexNet": (lambda: nn.Sequential(*tv.AlexNet(CLASSES).features[:6], nn.AdaptiveAvgPool2d(3), nn.Flatten(),
                                      nn.Dropout(), nn.Linear(192 * 9, CLASSES)), 35),
    "VGG": (lambda: nn.Sequential(*tv.vgg11().features[:8], nn.AdaptiveAvgPool2d(7), nn.Flatten(),
                                  nn.Linear(256 * 49, CLASSES)), 12),
    "VGG-BN": (lambda: nn.Sequential(*tv.vgg11_bn().features[:8], nn.Flatten(), nn.Linear(128 * 16, CLASSES)), 16),
    "ResNet": (lambda: resnet(BasicBlock), 32),
    "ResNeXt": (lambda: resnet(Bottleneck, groups=4, width_per_group=8), 32),
    "Wide-ResNet": (lambda: resnet(Bottleneck, width_per_group=96), 32),
    "DenseNet": (lambda: tv.DenseNet(8, (2, 2), 16, num_classes=CLASSES), 32),
    "SqueezeNet": (lambda: nn.Sequential(*tv.squeezenet1_1().features[:7], nn.Conv2d(256, CLASSES, 1), nn.ReLU(),
                                         nn.AdaptiveAvgPool2d(1), nn.Flatten()), 40),
    "GoogLeNet": (googlenet, 33),
    "Inception v3": (inception, 47),
    "MobileNet v2": (lambda: tv.MobileNetV2(CLASSES, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]), 32),
    "MobileNet v3": (mobilenet_v3, 32),
    "MNASNet": (mnasnet, 32),
    "ShuffleNet": (lambda: tv.ShuffleNetV2([2, 1, 1], [24, 32, 48, 64, 64], CLASSES), 32),
    "EfficientNet": (lambda: efficientnet(1), 32),
    "EfficientNet v2": (lambda: efficientnet(2), 32),
    "RegNet X": (lambda: regnet(None), 32),
    "RegNet Y": (lambda: regnet(0.25), 32),
    "ConvNeXt": (lambda: tv.ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=CLASSES), 32),
    "ViT": (lambda: tv.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=CLASSES), 32),
    "Swin": (swin, 20),
    "Swin v2": (partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), 20),
    "MaxViT": (lambda: tv.MaxVit((16, 16), 16, 2, [16], [1], 8, 0.1, num_classes=CLASSES), 16),
}  # fmt: skip


def miniature(family: str) -> tuple[nn.Module, Size]:
    """Return the family's miniature with random weights, and its image size."""
    torch.manual_seed(0)
    make, size = MINIATURES[family]
    return make(), (size, size)
