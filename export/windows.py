"""The windows that pooling looks through, as ONNX defines them: strides, dilations, paddings, ``ceil_mode``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Windows:
    """The windows of a pooling node over ``x`` [N, C, ...]; beyond its edges they hold ``fill``."""

    def __init__(self, x: Array, attributes: Mapping[str, Any], fill: float) -> None:
        self.kernel = [int(k) for k in attributes["kernel_shape"]]
        rank = len(self.kernel)
        self.strides = [int(s) for s in attributes.get("strides") or [1] * rank]
        self.dilations = [int(d) for d in attributes.get("dilations") or [1] * rank]
        self.spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.axes = tuple(range(2, 2 + rank))
        self.padding = [(0, 0), (0, 0), *self._padding(x.shape[2:], attributes)]
        self.padded = np.pad(x, self.padding, constant_values=fill)

    def of(self, padded: Array) -> Array:
        """Return the windows [N, C, *output, *kernel] of an array like ``padded``, a view."""
        view = np.lib.stride_tricks.sliding_window_view(padded, self.spans, axis=self.axes)
        every = [slice(None, None, s) for s in self.strides]
        inside = [slice(None, None, d) for d in self.dilations]
        result: Array = view[(slice(None), slice(None), *every, *inside)]
        return result

    def _padding(self, size: Sequence[int], attributes: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
        rank = len(self.kernel)
        auto = attributes.get("auto_pad") or "NOTSET"
        auto = auto.decode() if isinstance(auto, bytes) else auto
        pads = attributes.get("pads") or [0] * (2 * rank)
        for axis, (n, stride, span) in enumerate(zip(size, self.strides, self.spans, strict=True)):
            begin, end = int(pads[axis]), int(pads[axis + rank])
            if auto.startswith("SAME"):
                total = max(0, (-(-n // stride) - 1) * stride + span - n)
                begin, end = (total // 2, total - total // 2)[:: 1 if auto == "SAME_UPPER" else -1]
            elif auto == "VALID":
                begin = end = 0
            if attributes.get("ceil_mode"):
                count = -(-(n + begin + end - span) // stride) + 1
                count -= (count - 1) * stride >= n + begin  # a window lies in the image or before it, at least in part
                end = max(end, (count - 1) * stride + span - n - begin)
            yield begin, end
