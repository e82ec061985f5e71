"""Classifiers that no library ships: each mixes operators that the usual families do not have."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.export.gradients.exactness import CLASSES

Tensor = torch.Tensor


class Deconvolution(nn.Module):
    """Transposed, grouped, dilated and asymmetric convolutions; activations with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, (1, 5), padding=(0, 2)),
            nn.PReLU(16),
            nn.Conv2d(16, 24, (5, 1), stride=(2, 1), padding=(2, 0), groups=8),
            nn.ELU(0.7),
            nn.ConvTranspose2d(24, 16, 3, stride=2, padding=1, output_padding=1, groups=4),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 16, 3, dilation=3, padding=2, padding_mode="reflect"),
            nn.CELU(0.8),
            nn.ConvTranspose2d(16, 20, (2, 3), stride=(1, 2), dilation=(2, 1)),
            nn.SELU(),
            nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True),
            nn.MaxPool2d((3, 2), (2, 1), padding=(1, 0), dilation=(1, 2)),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Norms(nn.Module):
    """Every normalisation, smooth activations, squared and pooled heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.instance = nn.InstanceNorm2d(16, affine=True)
        self.group = nn.GroupNorm(4, 16)
        self.local = nn.LocalResponseNorm(5, alpha=0.25)
        self.layer = nn.LayerNorm([16, 9, 7])
        self.batch = nn.BatchNorm2d(16)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.softplus(self.instance(x)) + F.mish(self.group(x))
        x = self.local(x) * F.hardswish(self.batch(x)) + F.gelu(self.layer(x))
        x = F.silu(x) - F.gelu(x, approximate="tanh") + F.softsign(x) + F.hardsigmoid(x) + F.tanhshrink(x)
        generalised = x.clamp(min=2**-10).pow(4.0).mean((2, 3)).pow(0.25)
        spread = x.std((2, 3), correction=0)
        return self.head(torch.cat([generalised, spread, x.logsumexp((2, 3))], 1)).log_softmax(1)


class Resampling(nn.Module):
    """Interpolation, pixel shuffles, padding, flips, selections and conditionals by element."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, 16, 3, padding=1, padding_mode="replicate")
        self.side = nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 0, 1), mode="reflect")
        x = self.stem(F.pixel_unshuffle(x, 2))
        finer = self.side(F.pixel_shuffle(x, 2))
        x = F.interpolate(x, scale_factor=2, mode="nearest") + F.interpolate(
            x, size=finer.shape[2:], mode="bilinear", align_corners=False
        )
        x = x - F.interpolate(finer[:, :, ::3, 1:-1], size=x.shape[2:], mode="bilinear", align_corners=True)
        x = torch.where(x > 0.1, x * finer, finer.tanh()) + x.flip(3) + x.roll((1, -2), (2, 3))
        first, second = x.chunk(2, 1)
        x = torch.cat([first * second.sigmoid(), torch.minimum(first, second)], 1)
        x = torch.stack([x.amax((2, 3)), x[:, :, 0, -1], x.flatten(2)[..., 3:5].sum(-1)], 1).mean(1)
        return self.head(x)


class Attention(nn.Module):
    """Patches, a class token, attention by PyTorch's module, by hand and by einsum; a cosine head.

    Heads are 16 wide: the root of their scale is exact in float32, in which ONNX keeps it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(torch.randn(1, 10, 32))
        self.layer = nn.TransformerEncoderLayer(32, 2, 48, activation="gelu", batch_first=True, norm_first=True)
        self.mix = nn.MultiheadAttention(32, 2, batch_first=True)
        self.query = nn.Linear(32, 96, bias=False)
        self.classes = nn.Parameter(torch.randn(CLASSES, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = self.layer(x)
        x = x + self.mix(x, x, x, need_weights=False)[0]
        q, k, v = self.query(x).chunk(3, -1)
        weights = torch.einsum("nqc,nkc->nqk", q, k).div(4.0).softmax(-1)
        x = x + torch.einsum("nqk,nkc->nqc", weights, v)
        return F.linear(F.normalize(x[:, 0], dim=1), F.normalize(self.classes, dim=1)) * 8.0


class Gates(nn.Module):
    """Channel shuffles, maxout, one-dimensional convolution over channels, elementwise extrema, reciprocals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=3, padding=2)
        self.channels = nn.Conv1d(1, 1, 5, padding=2, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.unflatten(1, (2, 16)).transpose(1, 2).flatten(1, 2)
        x = x.unflatten(1, (16, 2)).amax(2)
        gate = self.channels(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        x = x * gate[:, :, None, None] + x.relu().square() / (1 + x.abs())
        x = self.depthwise(x.clamp(-1.5, 2)).relu()
        x = torch.maximum(x, x.mean((2, 3), keepdim=True)) - torch.exp(-x.square()) + torch.rsqrt(x + 0.5)
        largest = x.flatten(2).topk(2).values.sum(-1)
        return self.head(torch.log1p(x).sum((2, 3)) + torch.erf(x).norm(dim=(2, 3)) + largest)


class Branches(nn.Module):
    """Decisions by shape, taken again by the scripted part at run time: they fold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.adapt = torch.jit.script(adapt)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.adapt(self.stem(x).relu()).mean((2, 3)))


def adapt(x: Tensor) -> Tensor:
    if x.shape[2] > 4:
        y = x[:, :, ::2]
        if x.shape[3] > 100:
            y = y * 2
        else:
            y = torch.tanh(y)
    else:
        y = x + 1
    return y


UNSEEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "deconvolution": (Deconvolution, (9, 11)),
    "norms": (Norms, (9, 7)),
    "resampling": (Resampling, (9, 11)),
    "attention": (Attention, (12, 12)),
    "gates": (Gates, (11, 13)),
}


def unseen(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return one of the classifiers in eval mode with random weights, and its image size."""
    torch.manual_seed(0)
    make, size = UNSEEN[name]
    module = make().eval()
    module(torch.zeros(1, 3, *size))  # gives lazy layers their sizes
    return module, size
