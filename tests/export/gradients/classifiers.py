"""Small classifiers of the families that the tests share: the PyTorch module and its export, made once a process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export.to_onnx import to_onnx
from toolkit import models

CLASSES = 10
SIZE = {"vgg16": 32, "resnet18": 64}


@lru_cache
def classifier(architecture: str, width: float = 0.25) -> tuple[nn.Module, onnx.ModelProto]:
    """Return a randomly initialised network in eval mode and its ONNX graph, both for images of ``SIZE``."""
    size = SIZE[architecture]
    module = models.build(architecture, CLASSES, width=width, input_size=size).eval()
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # Captum's hooks need the values that an in-place layer overwrites
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
