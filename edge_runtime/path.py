"""Sample points of the explainers: which images to differentiate at, and how to weigh the gradients.

An explainer graph evaluates sum_k weight_k * gradient(baseline + scale_k * (image - baseline) + noise_k). A method is
therefore a function from its preset to scales, weights and noise; METHODS is the table of them. Every path begins with
the image itself, if need be with weight 0, because its logits belong to every explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError, unknown
from edge_runtime.manifest import ExplainerPreset, InputSpec


@dataclass(frozen=True)
class SamplePath:
    """K sample points: ``scale``, ``weight`` and the noise's standard deviation ``sigma``, each float32 [K].

    ``times_difference``: the weighted gradient is multiplied by (image - baseline) at the end.
    """

    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    sigma: NDArray[np.float32]
    times_difference: bool = False


def vanilla_gradient(preset: ExplainerPreset) -> SamplePath:
    """d F_target / d x at the image itself (paper eq. 1)."""
    return SamplePath(scale=np.ones(1, np.float32), weight=np.ones(1, np.float32), sigma=np.zeros(1, np.float32))


def integrated_gradients(preset: ExplainerPreset) -> SamplePath:
    """(x - x') times the integral of the gradient along the line from the baseline x' (paper eq. 2)."""
    if preset.quadrature not in QUADRATURES:
        raise unknown("quadrature", preset.quadrature, QUADRATURES)
    scale, weight = QUADRATURES[preset.quadrature](preset.samples)
    return SamplePath(
        scale=np.append(1, scale).astype(np.float32),
        weight=np.append(0, weight).astype(np.float32),
        sigma=np.zeros(len(scale) + 1, np.float32),
        times_difference=True,
    )


def smooth_grad(preset: ExplainerPreset) -> SamplePath:
    """Mean gradient over normal noise around the image (paper eq. 3)."""
    count = preset.samples
    return SamplePath(
        scale=np.ones(count + 1, np.float32),
        weight=np.append(0, np.full(count, 1 / count)).astype(np.float32),
        sigma=np.append(0, np.full(count, preset.sigma)).astype(np.float32),
    )


@lru_cache(maxsize=16)
def gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes in (0, 1) and weights of the Gauss-Legendre rule, exact for polynomials up to degree 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def riemann_trapezoid(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equidistant nodes with both ends, weights 1/count, halved at the ends, as Captum's rule of this name.

    The weights add up to 1 - 1/count, so completeness fails by construction (PROTOCOL: explanations).
    """
    if count < 2:
        raise InputError(f"riemann-trapezoid with {count} samples has no two ends; use at least 2")
    weights = np.full(count, 1 / count)
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, count), weights


def black(spec: InputSpec) -> NDArray[np.float32]:
    """Pixel value 0, in normalised space."""
    colour: NDArray[np.float32] = ((0 - np.asarray(spec.mean)) / np.asarray(spec.std)).astype(np.float32)
    return colour


def zero(spec: InputSpec) -> NDArray[np.float32]:
    """0 in normalised space: the mean colour."""
    return np.zeros(len(spec.mean), np.float32)


METHODS: dict[str, Callable[[ExplainerPreset], SamplePath]] = {
    "vg": vanilla_gradient,
    "ig": integrated_gradients,
    "sg": smooth_grad,
}
QUADRATURES: dict[str, Callable[[int], tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
    "gauss-legendre": gauss_legendre,
    "riemann-trapezoid": riemann_trapezoid,
}
# Start of IG's path: one value per channel.
BASELINES: dict[str, Callable[[InputSpec], NDArray[np.float32]]] = {"black": black, "zero": zero}


def sample_path(preset: ExplainerPreset) -> SamplePath:
    """Return the sample points of ``preset``; raises InputError for an unknown method or an impossible rule."""
    if preset.method not in METHODS:
        raise unknown("method", preset.method, METHODS)
    return METHODS[preset.method](preset)


def baseline_image(preset: ExplainerPreset, spec: InputSpec) -> NDArray[np.float32]:
    """Return the start of the preset's path as a normalised image float32 [C, H, W]."""
    if preset.baseline not in BASELINES:
        raise unknown("baseline", preset.baseline, BASELINES)
    colour = BASELINES[preset.baseline](spec)
    return np.ascontiguousarray(np.broadcast_to(colour[:, None, None], (3, spec.height, spec.width)))


class Noise:
    """Normal noise for successive sample points; the same numbers however they are split into draws.

    NumPy's Philox is counter-based and equal on every platform. Every image of a batch meets the same noise, so an
    explanation does not depend on its neighbours in the batch.
    """

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        if seed < 0:
            raise InputError(f"seed is {seed}; give a number of at least 0")
        self._generator = np.random.Generator(np.random.Philox(seed))
        self._shape = shape

    def draw(self, sigma: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [k, C, H, W]: for the next k points, standard deviation ``sigma`` [k] each."""
        noise = np.zeros((len(sigma), *self._shape), np.float32)
        active = sigma > 0  # only these draw numbers, or the split into calls would shift the others' noise
        drawn = self._generator.standard_normal((np.count_nonzero(active), *self._shape), np.float32)
        noise[active] = drawn * sigma[active, None, None, None]
        return noise


def even_step(count: int, limit: int) -> int:
    """Return the smallest step of at most ``limit`` that takes ``count`` points in as few runs: 51 by 17, not by 21.

    Runs of one shape let engines keep their plans; a short last one would cost a new plan.
    """
    runs = -(-count // limit)
    return -(-count // runs)
