"""The windows of pooling, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.windows import Windows

ROW = np.arange(1.0, 6.0).reshape(1, 1, 5)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"kernel_shape": [2]}, [[1, 2], [2, 3], [3, 4], [4, 5]]),
        ({"kernel_shape": [2], "strides": [2]}, [[1, 2], [3, 4]]),
        ({"kernel_shape": [2], "strides": [2], "ceil_mode": 1}, [[1, 2], [3, 4], [5, 0]]),
        ({"kernel_shape": [2], "strides": [2], "pads": [1, 1], "ceil_mode": 1}, [[0, 1], [2, 3], [4, 5]]),
        ({"kernel_shape": [2], "strides": [3], "pads": [0, 2], "ceil_mode": 1}, [[1, 2], [4, 5]]),
        ({"kernel_shape": [3], "strides": [2], "pads": [1, 1]}, [[0, 1, 2], [2, 3, 4], [4, 5, 0]]),
        ({"kernel_shape": [2], "dilations": [3]}, [[1, 4], [2, 5]]),
        ({"kernel_shape": [2], "strides": [2], "auto_pad": b"SAME_UPPER"}, [[1, 2], [3, 4], [5, 0]]),
        ({"kernel_shape": [2], "strides": [2], "auto_pad": "SAME_LOWER"}, [[0, 1], [2, 3], [4, 5]]),
        ({"kernel_shape": [2], "strides": [2], "pads": [1, 1], "auto_pad": "VALID"}, [[1, 2], [3, 4]]),
    ],
)
def test_one_axis(attributes: dict[str, Any], expected: list[list[int]]) -> None:
    windows = Windows(ROW, attributes, 0.0)
    assert windows.of(windows.padded)[0, 0].tolist() == expected
