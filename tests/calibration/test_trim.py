"""Kernels lose exactly the taps that meet nothing but padding, and no sum changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from calibration.layers import find_layers
from calibration.trim import trim_kernels
from export.session import cpu_session
from export.to_onnx import to_onnx

# kernel, stride, padding, dilation, groups, input size -> kernel that is left
CASES = {
    "3x3 on 1x1": ((3, 1, 1, 1, 1), (1, 1), (1, 1)),
    "3x3 on 2x2": ((3, 1, 1, 1, 1), (2, 2), (3, 3)),
    "stride 2 on 2x2": ((3, 2, 1, 1, 1), (2, 2), (2, 2)),
    "5x5 on 2x3": ((5, 1, 2, 1, 1), (2, 3), (3, 5)),
    "dilation 2 on 2x2": ((3, 1, 2, 2, 1), (2, 2), (1, 1)),
    "depthwise on 1x1": ((3, 1, 1, 1, 4), (1, 1), (1, 1)),
    "unpadded": ((1, 1, 0, 1, 1), (4, 4), (1, 1)),
}


def network(case: tuple[int, int, int, int, int], size: tuple[int, int]) -> onnx.ModelProto:
    kernel, stride, padding, dilation, groups = case
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return to_onnx(model.eval(), input_size=size)


@pytest.mark.parametrize("name", CASES)
def test_cuts_what_meets_only_padding(name: str) -> None:
    case, size, left = CASES[name]
    model = network(case, size)
    found = find_layers(model)
    before = found.prepared.constants["1.weight"].size
    saved = trim_kernels(found.prepared)
    kept = next(t for t in found.prepared.model.graph.initializer if t.name == "1.weight")
    assert tuple(kept.dims[2:]) == left
    assert saved == before - int(np.prod(kept.dims))
    onnx.checker.check_model(found.prepared.model)
    images = np.random.default_rng(1).standard_normal((2, 3, *size), dtype=np.float32)
    expected = cpu_session(model).run(None, {"image": images})[0]
    assert np.allclose(cpu_session(found.prepared.model).run(None, {"image": images})[0], expected, atol=1e-5)
