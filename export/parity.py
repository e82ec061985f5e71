"""Does the exported graph say what the original said? Checked before any bundle is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edge_runtime.errors import ExportError
from export.session import cpu_session

# Largest accepted |difference| of a logit. Float32 convolutions summed in another order differ by about 1e-6.
TOLERANCE = 1e-4
BATCHES = (1, 3)  # one image, and a batch that no kernel's block size divides

Images = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """Result of a comparison: the largest |difference| of any logit, and over how many images."""

    max_difference: float
    images: int


def random_images(count: int, input_size: tuple[int, int], seed: int = 0) -> Images:
    """Return normalised noise images [count,3,H,W]: the part of a parity check that needs no data."""
    return np.random.default_rng(seed).standard_normal((count, 3, *input_size), dtype=np.float32)


def check_parity(
    reference: Callable[[Images], Logits], model: onnx.ModelProto, images: Images, *, tolerance: float = TOLERANCE
) -> Parity:
    """Compare ``reference`` with ``model`` on onnxruntime's CPU provider over ``images`` [N,3,H,W], N >= 3.

    Every image is run alone and in batches of three. Raises ExportError where a logit differs by more than
    ``tolerance`` or is not a number.
    """
    session = cpu_session(model)
    name = session.get_inputs()[0].name
    expected = reference(images)
    worst = 0.0
    for size in BATCHES:
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        logits = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
        if logits.shape != expected.shape:
            raise ExportError(f"the exported model returns logits {logits.shape}, the original {expected.shape}")
        if not np.isfinite(logits).all():
            raise ExportError(f"the exported model returns NaN or infinite logits in batches of {size}")
        difference = float(np.abs(logits - expected).max())
        if not difference <= tolerance:
            raise ExportError(
                f"the exported model differs from the original by {difference:.2e} in batches of {size} "
                f"(at most {tolerance:.0e} is accepted); nothing was written"
            )
        worst = max(worst, difference)
    return Parity(max_difference=worst, images=len(images))
